# A classifier on a HaLViT for images of 32 or 64 pixels: no class token, the mean over all patches.
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="HaLViT",
        arch=dict(dim=192, depth=12, num_heads=3),
        with_cls_token=False,
        out_type="avg_featmap",
    ),
    head=dict(
        type="LinearClsHead",
        in_channels=192,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
    ),
)
