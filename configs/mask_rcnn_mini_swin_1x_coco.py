# Mask R-CNN, Mini-Swin-T (11.2M parameters in the backbone), COCO, 12 epochs.
_base_ = [
    "_base_/models/mask_rcnn_mini_swin.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "_base_/schedules/adamw_swin_1x.py",
    "_base_/default_runtime.py",
]
