# HaLViT-Tiny from a dense ViT-S or DeiT-S: what tools/halve.py makes of the dense checkpoint learns
# from the dense model and from the labels for 30 epochs. docs/halving.md has the commands; with
# signs, which dense blocks are halved into best (`model.backbone.signed_ffn=False` as published).
_base_ = [
    "../_base_/models/halvit_tiny_classifier.py",
    "../_base_/datasets/imagenet_deit.py",
    "../_base_/schedules/imagenet_recovery.py",
    "../_base_/classification_runtime.py",
]
custom_imports = dict(imports=["halvit_mm", "halvit_mm.distillation"])
load_from = "work_dirs/half.pth"
model = dict(
    type="DistilledClassifier",
    backbone=dict(signed_ffn=True),
    teacher=dict(
        config="{{ fileDirname }}/dense_vit_tiny_imagenet.py", checkpoint="work_dirs/dense.pth"
    ),
    distillation=dict(prediction=dict(weight=0.5)),
    label_weight=0.5,
)
