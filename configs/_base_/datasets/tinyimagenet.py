# Images of 64 × 64 pixels in 100 classes: every second class of Tiny ImageNet, 300 training and 50
# validation images each. data/tinyimagenet100 holds either folders, <split>/<class>/*.jpg, or npz
# archives *_train.npz and *_val.npz (halvit_mm/datasets/image_archive.py); all 200 classes as
# folders work as well, with both `num_classes` set to 200. The folder is set here or, for all
# configs at once, by the environment variable.
data_root = "{{$HALVIT_TINYIMAGENET_ROOT:data/tinyimagenet100}}"

# ImageNet's mean and standard deviation, R, G, B.
data_preprocessor = dict(
    num_classes=100, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
# The augmentation of DeiT. Padding and erased areas are in B, G, R, as images are until here.
train_pipeline = [
    dict(type="RandomResizedCrop", scale=64, crop_ratio_range=(0.25, 1.0)),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(
        type="RandAugment",
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation="bicubic"),
    ),
    dict(
        type="RandomErasing",
        erase_prob=0.25,
        mode="rand",
        max_area_ratio=1 / 3,
        fill_color=[103.53, 116.28, 123.675],
        fill_std=[57.375, 57.12, 58.395],
    ),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="PackInputs")]
train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="LabelledImages", data_root=data_root, split="train", pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="LabelledImages",
        data_root=data_root,
        split="val",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
