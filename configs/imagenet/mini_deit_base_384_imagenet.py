# Mini-DeiT-B fine-tuned at 384 pixels, 44.4M parameters; the paper reports top-1 84.9.
# `--cfg-options load_from=FILE` names a checkpoint at 224 pixels. As in the reference code there is
# no stochastic depth.
_base_ = [
    "../_base_/models/mini_deit_classifier.py",
    "../_base_/datasets/imagenet_deit_384.py",
    "../_base_/schedules/imagenet_finetune.py",
    "../_base_/classification_runtime.py",
]
model = dict(backbone=dict(arch="base", img_size=384), head=dict(in_channels=768))
# The published flags, `--lr 5e-6 --min-lr 5e-6` for 512 images a step of which only the first is
# scaled to 256 images, let the rate rise: from 1e-6 to 2.5e-6, then along the cosine to 5e-6.
optim_wrapper = dict(optimizer=dict(lr=2.5e-6), clip_grad=None)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.4, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min=5e-6,
        by_epoch=True,
        T_max=25,
        begin=5,
        end=30,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", momentum=4e-5, priority="ABOVE_NORMAL"),
]
