# For a CPU: a quarter of the width, few epochs, and a first stage that halves the picture at once,
# so that a step takes a quarter of the time.
_base_ = "half_resnet50_cifar10.py"
model = dict(
    backbone=dict(base_channels=16, strides=(2, 2, 2, 2)),
    head=dict(in_channels=512),
)

# 64 images a step are 782 steps an epoch.
max_epochs = 3
train_dataloader = dict(batch_size=64)
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=64)
