# Mask R-CNN of mmdet on a half-weight ResNet-50 and a feature pyramid.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="HalfResNet",
        depth=50,
        # As usual after ImageNet pretraining: the first layers and all running statistics stay.
        # From scratch they must not: --cfg-options model.backbone.frozen_stages=-1
        # model.backbone.norm_eval=False.
        frozen_stages=1,
        norm_eval=True,
        # --cfg-options model.backbone.init_cfg.checkpoint=FILE starts from ImageNet weights.
        init_cfg=dict(type="PretrainedBackbone", checkpoint=None),
    )
)
