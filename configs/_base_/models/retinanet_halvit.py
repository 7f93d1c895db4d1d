# RetinaNet of mmdet on HaLViT-Tiny and a simple feature pyramid.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="HaLViT",
        arch="tiny",
        with_cls_token=False,
        out_type="featmap",
        # Windows of 14 × 14 tokens (224 pixels); four evenly spread blocks see the whole image.
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        # --cfg-options model.backbone.init_cfg.checkpoint=FILE starts from ImageNet weights.
        init_cfg=dict(type="PretrainedBackbone", checkpoint=None),
    ),
    neck=dict(
        _delete_=True,
        type="SimpleFeaturePyramid",
        in_channels=384,
        strides=(8, 16, 32),
        num_outs=5,
        extra_convs=True,
    ),
)
