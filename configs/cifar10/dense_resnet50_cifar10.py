# The dense twin: the same code with no stage tied.
_base_ = "half_resnet50_cifar10.py"
model = dict(backbone=dict(tied_stages=()))
