# Transfer from classification, sized for a CPU: the backbone is that of
# configs/tinyimagenet/small_halvit_tinyimagenet.py at other sizes, with windows and a featmap in
# place of the mean. `--cfg-options model.backbone.init_cfg.checkpoint=FILE` names the classifier's
# checkpoint; without it, training starts from scratch.
_base_ = "mask_rcnn_halvit_small_nuclei.py"
model = dict(
    backbone=dict(arch=dict(dim=96, depth=6, num_heads=3), init_std=0.1), neck=dict(in_channels=96)
)

# Crops of 128 pixels cost less than half of 192. 139 steps an epoch.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=(320, 320), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(128, 128)),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(2, 2)),
    dict(
        type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]
    ),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
max_epochs = 5
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
