# DeiT's recipe, shortened for a model that was halved: 30 epochs instead of 300, half of the
# learning rate (5e-4 for 1024 images a step), 1 epoch of warm-up.
_base_ = "imagenet_deit.py"

warmup = 1
max_epochs = 30
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, end=warmup, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-6,
        by_epoch=True,
        T_max=max_epochs - warmup,
        begin=warmup,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
