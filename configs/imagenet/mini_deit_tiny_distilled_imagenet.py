# Mini-DeiT-Ti as published, learning from RegNetY-16GF's predictions alone; the paper reports top-1
# 73.0. The teacher needs timm (`pip install timm`).
_base_ = "mini_deit_tiny_imagenet.py"
custom_imports = dict(imports=["halvit_mm", "halvit_mm.distillation"])
model = dict(
    type="DistilledClassifier",
    teacher=dict(
        config="{{ fileDirname }}/../_base_/teachers/regnety_16gf.py",
        checkpoint="https://dl.fbaipublicfiles.com/deit/regnety_160-a5fe301d.pth",
    ),
    distillation=dict(prediction=dict(form="kl")),
)
