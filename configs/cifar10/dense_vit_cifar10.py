# The dense twin: the same code and recipe with nothing tied, 5.4M parameters.
_base_ = "halvit_cifar10.py"
model = dict(backbone=dict(tied=False))
