# Mini-DeiT-B with HaLViT's tying inside the shared blocks (ours): a quarter of the weights, 22.9M
# parameters where Mini-DeiT-B has 44.1M and DeiT-B 86.6M.
_base_ = "mini_deit_base_imagenet.py"
model = dict(backbone=dict(tied=True))
