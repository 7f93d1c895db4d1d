# RegNetY-16GF of timm (`pip install timm`), the teacher of DeiT and Mini-DeiT.
model = dict(type="TimmClassifier", model_name="regnety_160", num_classes=1000)
data_preprocessor = dict(
    num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
