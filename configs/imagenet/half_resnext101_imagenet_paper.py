# Half-weight ResNeXt-101 32x8d, ImageNet-1k at 224 pixels, the same plain recipe, which is also
# mmpretrain's for the dense model. The paper reports no accuracy of this model.
_base_ = "half_resnet50_imagenet_paper.py"
model = dict(backbone=dict(type="HalfResNeXt", depth=101))
