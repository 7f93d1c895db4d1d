# Mini-Swin-S as published, learning from a Swin on three levels; the paper reports top-1 83.9.
_base_ = "mini_swin_tiny_distilled_imagenet.py"
model = dict(backbone=dict(arch="small", drop_path_rate=0.1))
