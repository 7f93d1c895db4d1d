# The dense twin.
_base_ = "half_vit_tinyimagenet.py"
model = dict(backbone=dict(tied=False, signed_ffn=False))
