# Mask R-CNN, half-weight ResNet-50 (13.5M in the backbone), COCO, 36 epochs, multi-scale.
_base_ = [
    "_base_/models/mask_rcnn_half_resnet50.py",
    "_base_/datasets/coco_instance_multi_scale.py",
    "_base_/schedules/sgd_3x.py",
    "_base_/default_runtime.py",
]
