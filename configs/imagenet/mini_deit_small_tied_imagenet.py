# Mini-DeiT-S with HaLViT's tying inside the shared blocks (ours): a quarter of the weights, 6.1M
# parameters where Mini-DeiT-S has 11.5M and DeiT-S 22.1M.
_base_ = "mini_deit_small_imagenet.py"
model = dict(backbone=dict(tied=True))
