# A small HaLViT Mask R-CNN for the digits of the demo: minutes on two CPU cores, from scratch.
_base_ = [
    "../_base_/models/mask_rcnn_halvit.py",
    "../_base_/datasets/digits_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "../_base_/default_runtime.py",
]

# Digits are 20 to 56 pixels high in images of 128: patches of 8 pixels give a map of 16 × 16.
channels = 64
strides = [4, 8, 16]
model = dict(
    data_preprocessor=dict(pad_size_divisor=8),
    backbone=dict(
        arch=dict(_delete_=True, dim=128, depth=6, num_heads=4),
        img_size=128,
        patch_size=8,
        window_size=8,
        global_blocks=(1, 3, 5),
        init_cfg=None,
    ),
    neck=dict(in_channels=128, out_channels=channels, patch_stride=8, strides=strides, num_outs=3),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[5], ratios=[1.0, 1.6], strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, featmap_strides=strides, finest_scale=20),
        bbox_head=dict(
            in_channels=channels, fc_out_channels=256, num_classes=10, reg_class_agnostic=True
        ),
        mask_roi_extractor=dict(out_channels=channels, featmap_strides=strides, finest_scale=20),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=10,
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64), mask_size=28),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={"pos_embed": dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(logger=dict(interval=15))
log_processor = dict(window_size=15)
randomness = dict(seed=0)
