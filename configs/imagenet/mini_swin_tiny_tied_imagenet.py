# Mini-Swin-T with HaLViT's tying inside the shared blocks (ours): 7.3M parameters where
# Mini-Swin-T has 12.0M and Swin-T 28.3M.
_base_ = "mini_swin_tiny_imagenet.py"
model = dict(backbone=dict(tied=True))
