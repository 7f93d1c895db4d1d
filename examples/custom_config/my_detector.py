# A detector of one's own: mmdet's Mask R-CNN and FPN on a half-weight ResNet-50, all else mmdet's.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["halvit_mm"], allow_failed_imports=False)  # registers HalfResNet

model = dict(
    backbone=dict(
        _delete_=True,  # of mmdet's ResNet nothing stays
        type="HalfResNet",
        depth=50,
        # From ImageNet weights: checkpoint=FILE here, and frozen_stages=1, norm_eval=True above.
        init_cfg=dict(type="PretrainedBackbone", checkpoint=None),
    ),
    roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)),
)

# The same classes in every data loader, as the annotation files name them.
metainfo = dict(classes=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"))
data_root = "data/digits"
resize = dict(type="Resize", scale=(128, 128), keep_ratio=True)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    resize,
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    resize,
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train/"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="val/"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "/annotations/instances_val.json")
test_evaluator = val_evaluator

# mmdet's learning rate is for SGD and ImageNet weights; from scratch AdamW is easier to please.
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=2e-4, weight_decay=0.05))
auto_scale_lr = dict(base_batch_size=2)
randomness = dict(seed=0)
