# A classifier on a half-weight ResNet-50: 15,515,176 parameters with its head for 1000 classes.
model = dict(
    type="ImageClassifier",
    backbone=dict(type="HalfResNet", depth=50, out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=2048,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
        topk=(1, 5),
    ),
)
