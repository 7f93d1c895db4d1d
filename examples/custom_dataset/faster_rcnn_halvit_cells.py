# Faster R-CNN on a small HaLViT for three kinds of blood cells, boxes only: minutes on a CPU.
_base_ = "halvit_mm::mask_rcnn_halvit_1x_coco.py"

# The data: CELLS_ROOT names another folder. A single class needs its comma: ("RBC",).
root = "{{$CELLS_ROOT:data/cells}}"
classes = dict(classes=("RBC", "WBC", "Platelets"))  # as the annotation files name them
data = dict(data_root=root, data_prefix=dict(img="images/"), metainfo=classes)
load, boxes = dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)
resize = dict(type="Resize", scale=(192, 144), keep_ratio=True)
flip = dict(type="RandomFlip", prob=[0.3, 0.3], direction=["horizontal", "vertical"])
vary = [flip, dict(type="PhotoMetricDistortion"), dict(type="PackDetInputs")]
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
pack = dict(type="PackDetInputs", meta_keys=meta_keys)
train = dict(ann_file="annotations/train.json", pipeline=[load, boxes, resize, *vary], **data)
val = dict(ann_file="annotations/val.json", pipeline=[load, resize, boxes, pack], **data)
train_dataloader = dict(batch_size=4, dataset=train)
val_dataloader = test_dataloader = dict(batch_size=4, dataset=val)
scores = dict(ann_file=root + "/annotations/val.json", metric="bbox", classwise=True)
val_evaluator = test_evaluator = scores

# The model: boxes only, three classes; small, as the pictures are.
backbone = dict(arch=dict(_delete_=True, dim=128, depth=6, num_heads=4), img_size=(144, 192))
backbone |= dict(patch_size=8, window_size=6, global_blocks=(1, 3, 5))
neck = dict(in_channels=128, out_channels=64, patch_stride=8, strides=(4, 8, 16), num_outs=3)
anchors = dict(scales=[2.5, 4], ratios=[0.7, 1.0, 1.4], strides=[4, 8, 16])
rpn_head = dict(in_channels=64, feat_channels=64, anchor_generator=anchors)
regions = dict(out_channels=64, featmap_strides=[4, 8, 16], finest_scale=20)
bbox_head = dict(in_channels=64, fc_out_channels=256, num_classes=3)
roi_head = dict(bbox_roi_extractor=regions, bbox_head=bbox_head)
roi_head |= dict(mask_roi_extractor=None, mask_head=None)
model = dict(type="FasterRCNN", backbone=backbone, neck=neck, rpn_head=rpn_head, roi_head=roi_head)

train_cfg = dict(max_epochs=8, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=1.0))
warm_up = dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100)
decay = dict(type="CosineAnnealingLR", T_max=8, by_epoch=True, convert_to_iter_based=True)
param_scheduler = [warm_up, decay]
randomness = dict(seed=0)
