# Mini-DeiT in the small Mask R-CNN, sized for a CPU: six layers on three blocks, 0.7M parameters in
# the backbone. From scratch, as the HaLViT one but for the backbone; 4 epochs.
_base_ = "mask_rcnn_halvit_small_nuclei.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="MiniDeiT",
        arch=dict(dim=128, depth=6, num_heads=4),
        share=2,
        out_type="featmap",
        patch_size=8,
        img_size=192,
        window_size=12,
        global_blocks=(1, 3, 5),
    )
)

max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
