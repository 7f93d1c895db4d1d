# Half-weight ResNeXt-101 32x8d, ImageNet-1k at 224 pixels, the same modern recipe.
_base_ = "half_resnet50_imagenet.py"
model = dict(backbone=dict(type="HalfResNeXt", depth=101))
