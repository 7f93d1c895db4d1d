# ImageNet-1k for Swin's recipe: that of DeiT without repeated augmentation.
_base_ = "imagenet_deit.py"
train_dataloader = dict(sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True))
