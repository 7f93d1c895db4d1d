# Mini-DeiT-B, 44.1M parameters, ImageNet-1k at 224 pixels, without a teacher.
_base_ = "mini_deit_tiny_imagenet.py"
model = dict(backbone=dict(arch="base", drop_path_rate=0.1), head=dict(in_channels=768))
