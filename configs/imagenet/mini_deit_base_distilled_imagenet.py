# Mini-DeiT-B as published, learning from RegNetY-16GF's predictions; the paper reports top-1 83.2.
_base_ = "mini_deit_tiny_distilled_imagenet.py"
model = dict(backbone=dict(arch="base", drop_path_rate=0.1), head=dict(in_channels=768))
