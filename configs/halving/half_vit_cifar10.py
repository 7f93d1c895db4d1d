# What tools/compare_halving.py trains on CIFAR-10 on a CPU: HaLViT with signs, 238k parameters.
# Patches of 8 pixels, 16 to an image, so that a step takes a quarter of the time.
_base_ = [
    "../_base_/models/small_image_classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/adamw_steps.py",
    "../_base_/steps_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(dim=96, depth=4, num_heads=3),
        img_size=32,
        patch_size=8,
        signed_ffn=True,
        init_std=0.1,
    ),
    head=dict(in_channels=96, num_classes=10, topk=(1,)),
)
train_dataloader = dict(batch_size=64, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
randomness = dict(seed=0)
