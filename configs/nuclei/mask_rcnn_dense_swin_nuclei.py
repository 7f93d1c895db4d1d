# The unshared twin of Mini-Swin-T: a Swin-T.
_base_ = "mask_rcnn_mini_swin_nuclei.py"

model = dict(backbone=dict(share=1, transforms=False))
