# The narrow control: dense, as many parameters as the half model.
_base_ = "dense_vit_tinyimagenet.py"
model = dict(backbone=dict(arch=dict(dim=69, depth=6, num_heads=3)), head=dict(in_channels=69))
