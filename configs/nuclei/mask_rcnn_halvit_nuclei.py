# Mask R-CNN, HaLViT-Tiny, nuclei (one class): 24 epochs on one GPU, 16 images a step.
_base_ = [
    "../_base_/models/mask_rcnn_halvit.py",
    "../_base_/datasets/nuclei_instance.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    # Up to 162 nuclei on a tile: a hundred detections would not do.
    test_cfg=dict(rpn=dict(nms_pre=2000, max_per_img=2000), rcnn=dict(max_per_img=500)),
)

# 1,109 tiles at 16 a step are 69 steps an epoch, 1,656 in all.
max_epochs = 24
train_dataloader = dict(batch_size=16)
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
randomness = dict(seed=0)
