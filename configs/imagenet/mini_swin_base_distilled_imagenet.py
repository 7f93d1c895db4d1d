# Mini-Swin-B as published, learning from a Swin on three levels; the paper reports top-1 84.5.
_base_ = "mini_swin_tiny_distilled_imagenet.py"
model = dict(backbone=dict(arch="base", drop_path_rate=0.2), head=dict(in_channels=1024))
