# Mini-Swin-B, 46.4M parameters, ImageNet-1k at 224 pixels, without a teacher.
_base_ = "mini_swin_tiny_imagenet.py"
model = dict(backbone=dict(arch="base", drop_path_rate=0.2), head=dict(in_channels=1024))
