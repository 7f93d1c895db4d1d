# Mini-Swin of half of the tiny one's width in a small Mask R-CNN, sized for a CPU: twelve layers on
# four blocks, 2.9M parameters in the backbone. From scratch, as the Mini-DeiT one but for the
# backbone and its pyramid.
_base_ = "mask_rcnn_mini_deit_small_nuclei.py"

strides = [4, 8, 16, 32]
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type="MiniSwin",
        arch=dict(dim=48, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        share=(2, 2, 6, 2),
        window_size=6,
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(
        _delete_=True,
        type="FPN",
        in_channels=[48, 96, 192, 384],
        out_channels=64,
        num_outs=4,
    ),
    rpn_head=dict(anchor_generator=dict(strides=strides)),
)
