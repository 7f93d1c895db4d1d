# CIFAR-10 for transformers, which need more augmentation than the ResNets: RandAugment of DeiT's
# strength and random erasing beside crops and flips.
_base_ = "cifar10.py"
train_pipeline = [
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(
        type="RandAugment",
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[114, 123, 125], interpolation="bicubic"),
    ),
    dict(type="RandomErasing", erase_prob=0.25, mode="rand", max_area_ratio=1 / 3),
    dict(type="PackInputs"),
]
train_dataloader = dict(batch_size=512, num_workers=8, dataset=dict(pipeline=train_pipeline))
