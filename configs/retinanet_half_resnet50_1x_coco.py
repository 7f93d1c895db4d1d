# RetinaNet, half-weight ResNet-50 (13.5M parameters in the backbone), COCO, 12 epochs.
_base_ = [
    "_base_/models/retinanet_half_resnet50.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "_base_/default_runtime.py",
]

# RetinaNet diverges at the 0.02 of two-stage detectors.
optim_wrapper = dict(optimizer=dict(lr=0.01))
