# Mask R-CNN, Mini-DeiT-S, nuclei: as the HaLViT one but for the backbone.
_base_ = "mask_rcnn_halvit_nuclei.py"

model = dict(backbone=dict(type="MiniDeiT", arch="small"))
