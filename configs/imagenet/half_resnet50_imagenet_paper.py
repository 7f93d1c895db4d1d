# Half-weight ResNet-50, ImageNet-1k at 224 pixels, the plain recipe. The HaLViT paper reports top-1
# 75.1 for this model (76.1 for the dense one) but no full recipe; this is the standard one for
# ResNet-50 as mmpretrain has it: SGD, lr 0.1 for 256 images a step (8 GPUs × 32), divided by 10
# after epochs 30, 60 and 90 of 100.
_base_ = [
    "../_base_/models/half_resnet50_classifier.py",
    "../_base_/datasets/imagenet.py",
    "mmpretrain::_base_/schedules/imagenet_bs256.py",
    "../_base_/classification_runtime.py",
]
