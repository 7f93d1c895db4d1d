# The narrow control: dense, with the parameters of the HaLViT.
_base_ = "dense_vit_cifar10.py"
model = dict(backbone=dict(arch=dict(dim=136, depth=12, num_heads=4)), head=dict(in_channels=136))
