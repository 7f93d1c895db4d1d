# Mask R-CNN of mmdet on Mini-DeiT-S and a simple feature pyramid.
_base_ = "mask_rcnn_halvit.py"

model = dict(backbone=dict(type="MiniDeiT", arch="small"))
