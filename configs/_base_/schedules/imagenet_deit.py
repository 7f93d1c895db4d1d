# The recipe of DeiT (Touvron et al., "Training data-efficient image transformers", 2021), of which
# HaLViT's paper publishes the epochs only: AdamW, lr 0.001 for 1024 images a step (8 GPUs × 128),
# 5 epochs of warm-up, cosine decay over 300; gradients are clipped as in Swin's recipe.
# `--auto-scale-lr` scales the rate to other batches.
_base_ = "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py"

warmup = 5
max_epochs = 300
optim_wrapper = dict(
    # Biases and norms are the 1-D parameters; a rule by name would miss `bias_qkv`.
    paramwise_cfg=dict(
        _delete_=True,
        flat_decay_mult=0.0,
        custom_keys={
            "pos_embed": dict(decay_mult=0.0),
            "cls_token": dict(decay_mult=0.0),
            "rel_pos": dict(decay_mult=0.0),
        },
    ),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=warmup, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=True,
        T_max=max_epochs - warmup,
        begin=warmup,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
