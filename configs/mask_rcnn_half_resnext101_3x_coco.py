# Mask R-CNN, half-weight ResNeXt-101 32x8d (23.8M in the backbone), COCO, 36 epochs, multi-scale.
_base_ = "mask_rcnn_half_resnet50_3x_coco.py"

model = dict(backbone=dict(type="HalfResNeXt", depth=101))
