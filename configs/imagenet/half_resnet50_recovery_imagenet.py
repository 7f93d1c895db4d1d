# Half-weight ResNet-50 from a dense one: what tools/halve.py makes of torchvision's or mmdet's
# checkpoint learns from the dense model and from the labels for 30 epochs.
_base_ = [
    "../_base_/models/half_resnet50_classifier.py",
    "../_base_/datasets/imagenet_deit.py",
    "../_base_/schedules/imagenet_recovery.py",
    "../_base_/classification_runtime.py",
]
custom_imports = dict(imports=["halvit_mm", "halvit_mm.distillation"])
load_from = "work_dirs/half.pth"
model = dict(
    type="DistilledClassifier",
    teacher=dict(
        config="{{ fileDirname }}/dense_resnet50_imagenet.py", checkpoint="work_dirs/dense.pth"
    ),
    distillation=dict(prediction=dict(weight=0.5)),
    label_weight=0.5,
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
