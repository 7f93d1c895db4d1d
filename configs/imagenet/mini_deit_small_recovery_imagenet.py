# Mini-DeiT-S from DeiT-S: pairs of its layers become one block each, as
# halvit_tiny_recovery_imagenet.py does it with HaLViT.
_base_ = [
    "../_base_/models/mini_deit_classifier.py",
    "../_base_/datasets/imagenet_deit.py",
    "../_base_/schedules/imagenet_recovery.py",
    "../_base_/classification_runtime.py",
]
custom_imports = dict(imports=["halvit_mm", "halvit_mm.distillation"])
load_from = "work_dirs/half.pth"
model = dict(
    type="DistilledClassifier",
    backbone=dict(arch="small"),
    head=dict(in_channels=384),
    teacher=dict(
        config="{{ fileDirname }}/dense_deit_small_imagenet.py", checkpoint="work_dirs/dense.pth"
    ),
    distillation=dict(prediction=dict(weight=0.5)),
    label_weight=0.5,
)
