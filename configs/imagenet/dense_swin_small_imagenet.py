# Swin-S itself, 49.6M parameters: Mini-Swin's code and recipe with nothing shared or transformed.
_base_ = "mini_swin_small_imagenet.py"
model = dict(backbone=dict(share=1, transforms=False))
