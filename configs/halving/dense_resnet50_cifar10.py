# The dense twin.
_base_ = "half_resnet50_cifar10.py"
model = dict(backbone=dict(tied_stages=()))
