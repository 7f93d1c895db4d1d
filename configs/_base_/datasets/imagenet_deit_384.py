# ImageNet-1k for fine-tuning at 384 pixels, with DeiT's augmentation; tested at 384 of 438 pixels.
_base_ = "imagenet_deit.py"
train_pipeline = [
    dict(step, scale=384) if step.type == "RandomResizedCrop" else step
    for step in _base_.train_pipeline
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=438, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=384),
    dict(type="PackInputs"),
]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
