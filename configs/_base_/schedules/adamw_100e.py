# DeiT's recipe for small sets of small images: AdamW, lr 0.001 for 512 images a step, 10 epochs of
# warm-up, cosine decay over 100.
max_epochs = 100
warmup = 10
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    # Biases and norms are the 1-D parameters; a rule by name would miss `bias_qkv`.
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={"pos_embed": dict(decay_mult=0.0)}),
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
auto_scale_lr = dict(base_batch_size=512)
