# The unshared twin of the small Mini-Swin.
_base_ = "mask_rcnn_mini_swin_small_nuclei.py"

model = dict(backbone=dict(share=1, transforms=False))
