# Mini-Swin-B with HaLViT's tying inside the shared blocks (ours): 25.5M parameters where
# Mini-Swin-B has 46.4M and Swin-B 87.8M.
_base_ = "mini_swin_base_imagenet.py"
model = dict(backbone=dict(tied=True))
