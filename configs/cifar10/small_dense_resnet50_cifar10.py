# The dense twin of the small model.
_base_ = "small_half_resnet50_cifar10.py"
model = dict(backbone=dict(tied_stages=()))
