# Fine-tuning at a larger size as MiniViT's reference code does it with Mini-Swin-B: 30 epochs, lr
# 1e-5 for 256 images a step (8 GPUs × 32), next to no weight decay, 5 epochs of warm-up, cosine
# decay. `--cfg-options load_from=FILE` names the checkpoint at 224 pixels.
_base_ = "imagenet_deit.py"

warmup = 5
max_epochs = 30
optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8))
param_scheduler = [
    dict(
        type="LinearLR", start_factor=0.025, by_epoch=True, end=warmup, convert_to_iter_based=True
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=2.5e-6,
        by_epoch=True,
        T_max=max_epochs - warmup,
        begin=warmup,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
auto_scale_lr = dict(base_batch_size=256)
