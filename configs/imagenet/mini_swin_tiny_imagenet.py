# Mini-Swin-T, 12.0M parameters, ImageNet-1k at 224 pixels, the published recipe without its
# teacher: Swin's.
_base_ = [
    "../_base_/models/mini_swin_classifier.py",
    "../_base_/datasets/imagenet_swin.py",
    "../_base_/schedules/imagenet_swin.py",
    "../_base_/classification_runtime.py",
]
