# Swin-B itself at 384 pixels, 87.9M parameters: Mini-Swin's code and recipe with nothing shared or
# transformed.
_base_ = "mini_swin_base_384_imagenet.py"
model = dict(backbone=dict(share=1, transforms=False))
