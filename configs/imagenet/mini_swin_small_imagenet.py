# Mini-Swin-S, 26.5M parameters, ImageNet-1k at 224 pixels, without a teacher.
_base_ = "mini_swin_tiny_imagenet.py"
model = dict(backbone=dict(arch="small", drop_path_rate=0.1))
