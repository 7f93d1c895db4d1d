# RetinaNet, half-weight ResNeXt-101 32x8d (23.8M parameters in the backbone), COCO, 12 epochs.
_base_ = "retinanet_half_resnet50_1x_coco.py"

model = dict(backbone=dict(type="HalfResNeXt", depth=101))
