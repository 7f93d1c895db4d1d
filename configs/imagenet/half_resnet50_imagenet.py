# Half-weight ResNet-50, ImageNet-1k at 224 pixels, a modern recipe of 100 epochs: A3 of "ResNet
# strikes back" (Wightman, Touvron, Jégou, 2021), made for ResNet-50. Of the paper's three recipes
# it is the lightest, without drop path and repeated augmentation, which suits a model of fewer
# weights, and as long as the plain recipe, so that the two compare. As in mmpretrain's version of
# it images are trained at 224 pixels; the paper's A3 saves time with 160.
_base_ = [
    "../_base_/models/half_resnet50_classifier.py",
    "../_base_/datasets/imagenet_rand_augment.py",
    "mmpretrain::_base_/schedules/imagenet_bs2048_rsb.py",
    "../_base_/classification_runtime.py",
]

# Binary cross-entropy: with mixed images more than one class is right.
model = dict(
    head=dict(loss=dict(use_sigmoid=True)),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.1), dict(type="CutMix", alpha=1.0)]),
)
# LAMB; lr 0.008 belongs to 2048 images a step (8 GPUs × 256); `--auto-scale-lr` scales it to other
# batches. Each GPU's BatchNorm sees 256 images, so that it need not be synchronised.
optim_wrapper = dict(optimizer=dict(lr=0.008), paramwise_cfg=dict(flat_decay_mult=0.0))
