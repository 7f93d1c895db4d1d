# Transfer from classification, for a GPU: the backbone of
# configs/tinyimagenet/halvit_tinyimagenet.py, patches of 8 pixels; its checkpoint comes by
# `--cfg-options model.backbone.init_cfg.checkpoint=FILE`.
_base_ = "mask_rcnn_halvit_nuclei.py"
model = dict(
    data_preprocessor=dict(pad_size_divisor=8),
    backbone=dict(arch=dict(_delete_=True, dim=192, depth=12, num_heads=3), patch_size=8),
    neck=dict(in_channels=192, patch_stride=8),
)
