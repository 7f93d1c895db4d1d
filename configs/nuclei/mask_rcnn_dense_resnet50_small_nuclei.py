# The dense twin of the small half-weight ResNet-50.
_base_ = "mask_rcnn_half_resnet50_small_nuclei.py"

model = dict(backbone=dict(tied_stages=()))
