# The narrow control of the small model: dense, 0.87M parameters as the half-weight one.
_base_ = "small_dense_resnet50_cifar10.py"
model = dict(backbone=dict(base_channels=12, base_width=66), head=dict(in_channels=384))
