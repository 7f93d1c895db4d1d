# Mini-DeiT-S as published, learning from RegNetY-16GF's predictions; the paper reports top-1 80.9.
_base_ = "mini_deit_tiny_distilled_imagenet.py"
model = dict(backbone=dict(arch="small"), head=dict(in_channels=384))
