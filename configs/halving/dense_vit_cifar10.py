# The dense twin.
_base_ = "half_vit_cifar10.py"
model = dict(backbone=dict(tied=False, signed_ffn=False))
