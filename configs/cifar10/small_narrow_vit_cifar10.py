# The narrow control of the small model: dense, 241k parameters, 1% more than the HaLViT.
_base_ = "small_dense_vit_cifar10.py"
model = dict(backbone=dict(arch=dict(dim=69, depth=4, num_heads=3)), head=dict(in_channels=69))
