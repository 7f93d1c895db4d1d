# The dense twin of the half-weight ResNet-50.
_base_ = "mask_rcnn_half_resnet50_nuclei.py"

model = dict(backbone=dict(tied_stages=()))
