# A teacher for the distillation runs, sized for a CPU: mmpretrain's own Swin transformer with two
# stages, 2.1M parameters, 7 epochs.
_base_ = [
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/adamw_small.py",
    "../_base_/classification_runtime.py",
]
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="SwinTransformer",
        # 8 × 8 and 4 × 4 patches of 4 pixels, in windows of 4 × 4.
        arch=dict(embed_dims=96, depths=[2, 4], num_heads=[3, 6]),
        img_size=32,
        patch_size=4,
        window_size=4,
        drop_path_rate=0.0,
        out_indices=(1,),
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=10,
        in_channels=192,
        topk=(1,),
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
    ),
)
# 64 images a step are 782 steps an epoch. Images this small load faster without other processes.
max_epochs = 7
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=300),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
train_dataloader = dict(batch_size=64, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
randomness = dict(seed=0)
