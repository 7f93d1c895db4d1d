# For a CPU: half of the width and depth, 371k parameters, 48 × 48 pixels, few epochs and therefore
# little augmentation.
_base_ = [
    "../_base_/models/small_image_classifier.py",
    "../_base_/datasets/tinyimagenet.py",
    "../_base_/schedules/adamw_small.py",
    "../_base_/classification_runtime.py",
]
model = dict(
    # Narrow models learn faster from larger initial weights than ViT's usual 0.02; docs/results.md.
    backbone=dict(arch=dict(dim=96, depth=6, num_heads=3), img_size=48, patch_size=8, init_std=0.1),
    head=dict(in_channels=96, num_classes=100),
)
train_pipeline = [
    dict(type="RandomResizedCrop", scale=48, crop_ratio_range=(0.35, 1.0)),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
# The middle 48 of 52 pixels show things in the size in which they are trained on average.
test_pipeline = [
    dict(type="ResizeEdge", scale=52),
    dict(type="CenterCrop", crop_size=48),
    dict(type="PackInputs"),
]
# 64 images a step are 469 steps an epoch. Images this small load faster without other processes.
train_dataloader = dict(
    batch_size=64, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
randomness = dict(seed=0)
