# The 1x schedule of mmdet as its Swin configs have it: AdamW, lr 1e-4 for 16 images a step, 1000
# steps of warm-up, lr ÷ 10 after epochs 8 and 11.
_base_ = "mmdet::_base_/schedules/schedule_1x.py"

max_epochs = 12
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", begin=0, end=max_epochs, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # Biases and norms are the 1-D parameters.
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={"rel_pos": dict(decay_mult=0.0)}),
)
