# ImageNet-1k for the modern recipe: bicubic crops and RandAugment (magnitude 6 ± 0.5), tested at
# 224 of 236 pixels. The folder is that of imagenet.py.
_base_ = "mmpretrain::_base_/datasets/imagenet_bs256_rsb_a3.py"
data_root = "{{$HALVIT_IMAGENET_ROOT:data/imagenet}}"
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
