# HaLViT-Large (ours), 153M parameters, ImageNet-1k at 224 pixels, 300 epochs; LayerScale steadies
# its 24 blocks.
_base_ = "halvit_medium_imagenet.py"
model = dict(
    backbone=dict(arch="large", drop_path_rate=0.3, layer_scale=1e-4), head=dict(in_channels=1024)
)
