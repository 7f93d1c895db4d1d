# Swin-B itself, 87.8M parameters: Mini-Swin's code and recipe with nothing shared or transformed.
_base_ = "mini_swin_base_imagenet.py"
model = dict(backbone=dict(share=1, transforms=False))
