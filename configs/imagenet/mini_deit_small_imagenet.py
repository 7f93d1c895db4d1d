# Mini-DeiT-S, 11.5M parameters, ImageNet-1k at 224 pixels, without a teacher.
_base_ = "mini_deit_tiny_imagenet.py"
model = dict(backbone=dict(arch="small"), head=dict(in_channels=384))
