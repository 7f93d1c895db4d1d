# HaLViT-Medium from a dense ViT-B or DeiT-B, as halvit_tiny_recovery_imagenet.py.
_base_ = "halvit_tiny_recovery_imagenet.py"
model = dict(
    backbone=dict(arch="medium", drop_path_rate=0.1),
    head=dict(in_channels=768),
    teacher=dict(config="{{ fileDirname }}/dense_vit_medium_imagenet.py"),
)
