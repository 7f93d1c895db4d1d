# Nuclei of the 2018 Data Science Bowl in tiles of 232 to 360 pixels, one class, made by
# `python tools/prepare_nuclei.py SOURCE data/nuclei`.
# The folder is set here or, for all configs at once, by the environment variable.
data_root = "{{$HALVIT_NUCLEI_ROOT:data/nuclei}}"
metainfo = dict(classes=("nucleus",))

# The median nucleus covers 17 × 17 pixels, so tiles are enlarged: to 512 for testing, about that
# with crops of 512 for training. Nuclei have no up or down: flips in both directions.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=(512, 512), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512)),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(2, 2)),
    dict(
        type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]
    ),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(512, 512), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="val/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

# Ten tiles show more than 100 nuclei. CocoMetric counts the 100 best detections of an image for its
# mAP whatever `proposal_nums` says, unless `use_mp_eval` is set: then it counts as many as the last
# of `proposal_nums`. A model must also keep as many: set `test_cfg.rcnn.max_per_img` to 500.
val_evaluator = dict(
    type="CocoMetric",
    ann_file=data_root + "/annotations/instances_val.json",
    metric=["bbox", "segm"],
    proposal_nums=(100, 300, 500),
    use_mp_eval=True,
)
test_evaluator = val_evaluator
