# A number of steps on a CPU: SGD, lr 0.05 for 64 images a step, cosine decay after 100 steps.
_base_ = "cifar10_sgd.py"
max_iters = 2000
optim_wrapper = dict(optimizer=dict(lr=0.05))
train_cfg = dict(
    _delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=0, T_max=max_iters),
]
auto_scale_lr = dict(base_batch_size=64)
