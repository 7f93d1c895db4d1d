# A classifier of one's own: a small Mini-Swin on a folder of images with a folder a class.
_base_ = "mmpretrain::_base_/default_runtime.py"
custom_imports = dict(imports=["halvit_mm"], allow_failed_imports=False)  # registers MiniSwin

model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="MiniSwin",
        arch=dict(dim=48, depths=(2, 4), num_heads=(3, 6)),
        share=2,  # one block for two layers
        window_size=4,
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead", num_classes=10, in_channels=96, loss=dict(type="CrossEntropyLoss")
    ),
)
data_preprocessor = dict(num_classes=10, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)

resize = dict(type="Resize", scale=(32, 32))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    resize,
    dict(type="RandomCrop", crop_size=32, padding=3),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), resize, dict(type="PackInputs")]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CustomDataset",
        data_root="data/digit_images",
        data_prefix="train",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        data_root="data/digit_images",
        data_prefix="val",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=1)
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=5)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    # No decay of biases, norms and other parameters of one dimension.
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=10, by_epoch=True, convert_to_iter_based=True),
]
randomness = dict(seed=0)
