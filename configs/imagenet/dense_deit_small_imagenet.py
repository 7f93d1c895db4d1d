# DeiT-S itself, 22.1M parameters: Mini-DeiT's code and recipe with nothing shared or transformed,
# and a class token.
_base_ = "mini_deit_small_imagenet.py"
model = dict(backbone=dict(share=1, transforms=False, with_cls_token=True))
