# The unshared twin of the small Mini-DeiT.
_base_ = "mask_rcnn_mini_deit_small_nuclei.py"

model = dict(backbone=dict(share=1, transforms=False))
