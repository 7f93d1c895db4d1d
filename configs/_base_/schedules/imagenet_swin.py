# Swin's recipe: that of DeiT with 20 epochs of warm-up.
_base_ = "imagenet_deit.py"

warmup = 20
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warmup),
    dict(_base_.param_scheduler[1], begin=warmup, T_max=_base_.max_epochs - warmup),
]
