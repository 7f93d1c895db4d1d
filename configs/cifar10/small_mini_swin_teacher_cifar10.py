# A teacher for the small Mini-Swin: half as wide again and nothing shared, so that each layer has
# weights of its own; 4 epochs.
_base_ = "small_mini_swin_cifar10.py"
model = dict(
    backbone=dict(arch=dict(dim=96, num_heads=(3, 6)), share=1),
    head=dict(in_channels=192),
)
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=300),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
