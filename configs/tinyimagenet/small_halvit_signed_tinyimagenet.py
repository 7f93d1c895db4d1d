# The small HaLViT, half of whose hidden units write with a minus sign (ours).
_base_ = "small_halvit_tinyimagenet.py"
model = dict(backbone=dict(signed_ffn=True))
