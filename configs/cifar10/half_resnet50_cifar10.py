# Half-weight ResNet-50 with a stem for small images on CIFAR-10: 100 epochs on one GPU.
_base_ = [
    "../_base_/models/half_resnet50_classifier.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/cifar10_sgd.py",
    "../_base_/classification_runtime.py",
]

model = dict(backbone=dict(cifar_stem=True), head=dict(num_classes=10, topk=(1,)))
randomness = dict(seed=0)
