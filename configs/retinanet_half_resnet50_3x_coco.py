# RetinaNet, half-weight ResNet-50 (13.5M in the backbone), COCO, 36 epochs, multi-scale.
_base_ = [
    "_base_/models/retinanet_half_resnet50.py",
    "_base_/datasets/coco_detection_multi_scale.py",
    "_base_/schedules/sgd_3x.py",
    "_base_/default_runtime.py",
]

# RetinaNet diverges at the 0.02 of two-stage detectors.
optim_wrapper = dict(optimizer=dict(lr=0.01))
