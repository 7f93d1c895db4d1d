# The half model learning from the dense twin and from the labels; name the twin's checkpoint by
# --cfg-options model.teacher.checkpoint=FILE.
_base_ = "half_vit_cifar10.py"
model = dict(
    type="DistilledClassifier",
    teacher=dict(
        config="{{ fileDirname }}/dense_vit_cifar10.py",
        checkpoint="work_dirs/dense_vit_cifar10/iter_4000.pth",
    ),
    distillation=dict(prediction=dict(weight=0.5)),
    label_weight=0.5,
)
custom_imports = dict(imports=["halvit_mm", "halvit_mm.distillation"])
