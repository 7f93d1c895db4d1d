# Mask R-CNN, HaLViT-Tiny (11.0M parameters in the backbone), COCO, 12 epochs.
_base_ = [
    "_base_/models/mask_rcnn_halvit.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "_base_/schedules/adamw_1x.py",
    "_base_/default_runtime.py",
]
