# RetinaNet, Mini-DeiT-S (11.1M parameters in the backbone), COCO, 12 epochs.
_base_ = [
    "_base_/models/retinanet_mini_deit.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "_base_/schedules/adamw_1x.py",
    "_base_/default_runtime.py",
]
