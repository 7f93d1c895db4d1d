# The narrow control of the small model: dense, 371k parameters as the HaLViT.
_base_ = "small_dense_vit_tinyimagenet.py"
model = dict(backbone=dict(arch=dict(dim=69, depth=6, num_heads=3)), head=dict(in_channels=69))
