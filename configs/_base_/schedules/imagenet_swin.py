# Swin's recipe: that of DeiT with 20 epochs of warm-up.
_base_ = "imagenet_deit.py"

warmup = 20
max_epochs = 300
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
