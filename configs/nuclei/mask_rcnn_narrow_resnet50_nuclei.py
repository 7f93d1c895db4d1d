# The narrow control: dense, with as many parameters in the backbone as the half-weight ResNet-50.
_base_ = "mask_rcnn_dense_resnet50_nuclei.py"

model = dict(
    backbone=dict(base_channels=48, base_width=65),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
