# For a CPU: half of the width, a third of the depth, 238k parameters, one epoch and therefore
# little augmentation.
_base_ = [
    "../_base_/models/small_image_classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/adamw_small.py",
    "../_base_/classification_runtime.py",
]
model = dict(
    # Narrow models learn faster from larger initial weights than ViT's usual 0.02; docs/results.md.
    backbone=dict(arch=dict(dim=96, depth=4, num_heads=3), img_size=32, patch_size=4, init_std=0.1),
    head=dict(in_channels=96, num_classes=10, topk=(1,)),
)
# 64 images a step are 782 steps an epoch. Images this small load faster without other processes.
max_epochs = 1
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=300),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
train_dataloader = dict(batch_size=64, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
randomness = dict(seed=0)
