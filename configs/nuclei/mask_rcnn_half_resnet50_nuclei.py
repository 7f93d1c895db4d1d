# Mask R-CNN, half-weight ResNet-50, nuclei: from scratch, as the HaLViT one but for the backbone.
_base_ = "mask_rcnn_halvit_nuclei.py"

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(_delete_=True, type="HalfResNet", depth=50),
    neck=dict(
        _delete_=True,
        type="FPN",
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        num_outs=5,
    ),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0),
)
