# ImageNet-1k for DeiT's recipe: bicubic crops, RandAugment (magnitude 9 ± 0.5), random erasing, and
# three augmentations of an image in each epoch; tested at 224 of 256 pixels. The folder is that of
# imagenet.py.
_base_ = "mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py"
data_root = "{{$HALVIT_IMAGENET_ROOT:data/imagenet}}"
train_dataloader = dict(
    batch_size=128,
    sampler=dict(_delete_=True, type="RepeatAugSampler", shuffle=True),
    dataset=dict(data_root=data_root),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
