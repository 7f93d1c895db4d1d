# Half-weight ResNet-50 of half the width in a small Mask R-CNN, sized for a CPU: 3.4M parameters in
# the backbone. From scratch, as the HaLViT one but for the backbone.
_base_ = "mask_rcnn_halvit_small_nuclei.py"

strides = [4, 8, 16, 32]
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(_delete_=True, type="HalfResNet", depth=50, base_channels=32),
    neck=dict(
        _delete_=True,
        type="FPN",
        in_channels=[128, 256, 512, 1024],
        out_channels=64,
        num_outs=4,
    ),
    rpn_head=dict(anchor_generator=dict(strides=strides)),
)

max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
