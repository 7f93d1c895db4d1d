# RetinaNet, Mini-Swin-T (11.2M in the backbone), COCO, 36 epochs, multi-scale.
_base_ = [
    "_base_/models/retinanet_mini_swin.py",
    "_base_/datasets/coco_detection_multi_scale.py",
    "_base_/schedules/adamw_swin_3x.py",
    "_base_/default_runtime.py",
]
