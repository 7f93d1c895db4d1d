# The narrow control: dense, with the parameters of the HaLViT (0.7% fewer).
_base_ = "dense_vit_tinyimagenet.py"
model = dict(backbone=dict(arch=dict(dim=136, depth=12, num_heads=4)), head=dict(in_channels=136))
