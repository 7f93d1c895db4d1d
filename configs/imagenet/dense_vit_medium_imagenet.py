# The dense twin of HaLViT-Medium (a ViT-B): the same code and recipe with nothing tied.
_base_ = "halvit_medium_imagenet.py"
model = dict(backbone=dict(tied=False))
