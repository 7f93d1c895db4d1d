# HaLViT-Nano (ours), 3.1M parameters, ImageNet-1k at 224 pixels, 300 epochs.
_base_ = "halvit_tiny_imagenet.py"
model = dict(backbone=dict(arch="nano"), head=dict(in_channels=192))
