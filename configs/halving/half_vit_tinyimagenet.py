# What tools/compare_halving.py trains on Tiny ImageNet on a CPU: HaLViT with signs, 48 × 48 pixels.
# Patches of 12 pixels, 16 to an image, so that a step takes half of the time.
_base_ = [
    "../_base_/models/small_image_classifier.py",
    "../_base_/datasets/tinyimagenet.py",
    "../_base_/schedules/adamw_steps.py",
    "../_base_/steps_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(dim=96, depth=6, num_heads=3),
        img_size=48,
        patch_size=12,
        signed_ffn=True,
        init_std=0.1,
    ),
    head=dict(in_channels=96, num_classes=100),
)
train_pipeline = [
    dict(type="RandomResizedCrop", scale=48, crop_ratio_range=(0.35, 1.0)),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="ResizeEdge", scale=52),
    dict(type="CenterCrop", crop_size=48),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=64, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
randomness = dict(seed=0)
