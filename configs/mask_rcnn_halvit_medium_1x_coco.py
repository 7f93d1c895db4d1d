# Mask R-CNN, HaLViT-Medium (43.3M parameters in the backbone), COCO, 12 epochs.
_base_ = "mask_rcnn_halvit_1x_coco.py"

model = dict(
    backbone=dict(arch="medium", drop_path_rate=0.1),
    neck=dict(in_channels=768),
)
