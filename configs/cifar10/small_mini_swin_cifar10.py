# A small Mini-Swin for a CPU: 8 × 8 and 4 × 4 patches of 4 pixels in windows of 4 × 4, two and four
# layers on one and two blocks, one epoch.
_base_ = "small_halvit_cifar10.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="MiniSwin",
        arch=dict(dim=64, depths=(2, 4), num_heads=(2, 4)),
        share=2,
        window_size=4,
        init_std=0.1,
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(in_channels=128),
)
