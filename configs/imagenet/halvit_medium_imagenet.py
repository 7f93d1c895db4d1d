# HaLViT-Medium, ImageNet-1k at 224 pixels, 300 epochs; the paper, where it is "Small" or "M",
# reports top-1 81.3. With stochastic depth and averaged weights, as DeiT-B has them.
_base_ = "halvit_tiny_imagenet.py"
model = dict(backbone=dict(arch="medium", drop_path_rate=0.1), head=dict(in_channels=768))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", momentum=4e-5, priority="ABOVE_NORMAL"),
]
