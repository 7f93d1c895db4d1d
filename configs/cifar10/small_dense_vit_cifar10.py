# The dense twin of the small model.
_base_ = "small_halvit_cifar10.py"
model = dict(backbone=dict(tied=False))
