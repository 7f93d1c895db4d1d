# The dense twin: the same code and recipe with no stage tied, 88.8M parameters.
_base_ = "half_resnext101_imagenet_paper.py"
model = dict(backbone=dict(tied_stages=()))
