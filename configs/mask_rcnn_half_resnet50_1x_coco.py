# Mask R-CNN, half-weight ResNet-50 (13.5M parameters in the backbone), COCO, 12 epochs.
_base_ = [
    "_base_/models/mask_rcnn_half_resnet50.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "_base_/default_runtime.py",
]
