# The dense twin of the small model, 703k parameters.
_base_ = "small_halvit_tinyimagenet.py"
model = dict(backbone=dict(tied=False))
