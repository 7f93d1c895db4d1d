# ImageNet-1k for the plain recipe: random crops and flips, tested at 224 of 256 pixels.
# The folder holds train/ and val/, each with a folder a class (val/ may also be flat, with the list
# meta/val.txt). It is set here or, for all configs at once, by the environment variable.
_base_ = "mmpretrain::_base_/datasets/imagenet_bs32.py"
data_root = "{{$HALVIT_IMAGENET_ROOT:data/imagenet}}"
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))
