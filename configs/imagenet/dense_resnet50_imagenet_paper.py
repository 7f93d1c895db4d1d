# The dense twin: the same code and recipe with no stage tied, 25.6M parameters.
_base_ = "half_resnet50_imagenet_paper.py"
model = dict(backbone=dict(tied_stages=()))
