# RetinaNet, Mini-DeiT-S (11.1M in the backbone), COCO, 36 epochs, multi-scale.
_base_ = [
    "_base_/models/retinanet_mini_deit.py",
    "_base_/datasets/coco_detection_multi_scale.py",
    "_base_/schedules/adamw_3x.py",
    "_base_/default_runtime.py",
]
