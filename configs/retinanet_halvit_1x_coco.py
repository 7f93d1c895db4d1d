# RetinaNet, HaLViT-Tiny (11.0M parameters in the backbone), COCO, 12 epochs.
_base_ = [
    "_base_/models/retinanet_halvit.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "_base_/schedules/adamw_1x.py",
    "_base_/default_runtime.py",
]
