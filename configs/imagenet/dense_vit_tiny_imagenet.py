# The dense twin of HaLViT-Tiny (a ViT-S): the same code and recipe with nothing tied.
_base_ = "halvit_tiny_imagenet.py"
model = dict(backbone=dict(tied=False))
