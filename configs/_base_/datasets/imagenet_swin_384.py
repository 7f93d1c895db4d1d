# ImageNet-1k for fine-tuning at 384 pixels: that of DeiT without repeated augmentation.
_base_ = "imagenet_deit_384.py"
train_dataloader = dict(sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True))
