# A number of steps on a CPU: AdamW, lr 0.0015 for 64 images a step, cosine decay after 100 steps.
_base_ = "adamw_small.py"
max_iters = 4000
train_cfg = dict(
    _delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=0, T_max=max_iters),
]
