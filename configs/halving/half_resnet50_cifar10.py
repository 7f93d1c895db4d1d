# What tools/compare_halving.py trains of ResNets on CIFAR-10 on a CPU: a quarter of the width, and
# a first stage that halves the picture at once; 861k parameters without the head.
_base_ = [
    "../_base_/models/half_resnet50_classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/sgd_steps.py",
    "../_base_/steps_runtime.py",
]
model = dict(
    backbone=dict(base_channels=16, cifar_stem=True, strides=(2, 2, 2, 2)),
    head=dict(in_channels=512, num_classes=10, topk=(1,)),
)
train_dataloader = dict(batch_size=64, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
randomness = dict(seed=0)
