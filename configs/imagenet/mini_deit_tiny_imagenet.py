# Mini-DeiT-Ti, 3.1M parameters, ImageNet-1k at 224 pixels, the published recipe without its
# teacher: DeiT's, without clipping and with averaged weights.
_base_ = [
    "../_base_/models/mini_deit_classifier.py",
    "../_base_/datasets/imagenet_deit.py",
    "../_base_/schedules/imagenet_deit.py",
    "../_base_/classification_runtime.py",
]
optim_wrapper = dict(clip_grad=None)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", momentum=4e-5, priority="ABOVE_NORMAL"),
]
