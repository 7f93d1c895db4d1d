# The unshared twin of Mini-DeiT-S: a DeiT-S without class token.
_base_ = "mask_rcnn_mini_deit_nuclei.py"

model = dict(backbone=dict(share=1, transforms=False))
