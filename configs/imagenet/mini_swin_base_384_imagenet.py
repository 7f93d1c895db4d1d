# Mini-Swin-B fine-tuned at 384 pixels with windows of 12 × 12, 46.5M parameters; the paper reports
# top-1 85.5. `--cfg-options load_from=FILE` names a checkpoint at 224 pixels.
_base_ = [
    "../_base_/models/mini_swin_classifier.py",
    "../_base_/datasets/imagenet_swin_384.py",
    "../_base_/schedules/imagenet_finetune.py",
    "../_base_/classification_runtime.py",
]
model = dict(
    backbone=dict(arch="base", window_size=12, drop_path_rate=0.2),
    head=dict(in_channels=1024),
)
