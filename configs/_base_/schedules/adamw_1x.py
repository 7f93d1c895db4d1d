# The 1x schedule of mmdet (12 epochs, lr ÷ 10 after epochs 8 and 11) with AdamW for transformers.
_base_ = "mmdet::_base_/schedules/schedule_1x.py"

# lr 1e-4 belongs to 16 images a step (8 GPUs × 2); `--auto-scale-lr` scales it to other batches.
# COCO train2017 has 117,266 images with annotations: 7,330 steps an epoch, 87,960 in all.
# With layer decay 0.8 and 12 blocks the embeddings learn at 0.8¹³ ≈ 0.055 of the heads' rate.
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    constructor="LayerDecayOptimWrapperConstructor",
    # One kernel for the whole step, on GPU and CPU.
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        layer_decay_rate=0.8,
        # Biases and norms are the 1-D parameters; a rule by name would miss `bias_qkv`.
        flat_decay_mult=0.0,
        custom_keys={"pos_embed": dict(decay_mult=0.0), "rel_pos": dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=1.0),
)
