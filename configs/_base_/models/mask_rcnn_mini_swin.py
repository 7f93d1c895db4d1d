# Mask R-CNN of mmdet on Mini-Swin-T and a feature pyramid.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="MiniSwin",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2,
        # --cfg-options model.backbone.init_cfg.checkpoint=FILE starts from ImageNet weights.
        init_cfg=dict(type="PretrainedBackbone", checkpoint=None),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
