# HaLViT of nano's width and depth, 2.75M parameters, on 64 × 64 pixels: 100 epochs on one GPU.
_base_ = [
    "../_base_/models/small_image_classifier.py",
    "../_base_/datasets/tinyimagenet.py",
    "../_base_/schedules/adamw_100e.py",
    "../_base_/classification_runtime.py",
]
model = dict(
    backbone=dict(img_size=64, patch_size=8, drop_path_rate=0.05),
    head=dict(num_classes=100),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
randomness = dict(seed=0)
