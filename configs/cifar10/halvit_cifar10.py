# HaLViT of nano's width and depth, 2.7M parameters, on CIFAR-10: 100 epochs on one GPU.
_base_ = [
    "../_base_/models/small_image_classifier.py",
    "../_base_/datasets/cifar10_augmented.py",
    "../_base_/schedules/adamw_100e.py",
    "../_base_/classification_runtime.py",
]
model = dict(
    backbone=dict(img_size=32, patch_size=4, drop_path_rate=0.05),
    head=dict(num_classes=10, topk=(1,)),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
randomness = dict(seed=0)
