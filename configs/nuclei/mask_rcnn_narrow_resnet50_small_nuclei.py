# The narrow control: dense, with as many parameters in the backbone as the small half-weight one.
_base_ = "mask_rcnn_dense_resnet50_small_nuclei.py"

model = dict(
    backbone=dict(base_channels=24, base_width=65),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
