# The dense twin: the same code and recipe with nothing tied, 5.4M parameters.
_base_ = "halvit_tinyimagenet.py"
model = dict(backbone=dict(tied=False))
