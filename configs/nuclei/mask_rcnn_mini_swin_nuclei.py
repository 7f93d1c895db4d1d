# Mask R-CNN, Mini-Swin-T, nuclei: as the half-weight ResNet-50 one but for the backbone.
_base_ = "mask_rcnn_half_resnet50_nuclei.py"

model = dict(
    backbone=dict(_delete_=True, type="MiniSwin", arch="tiny", out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"rel_pos": dict(decay_mult=0.0)}))
