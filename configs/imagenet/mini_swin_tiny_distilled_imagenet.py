# Mini-Swin-T as published, learning from a Swin's predictions, attention and hidden states; the
# paper reports top-1 81.3. Its teacher is a Swin of 24 layers, B or L. This one is mmpretrain's
# Swin-B for 224 pixels, pretrained on ImageNet-22k and fine-tuned on 1k, top-1 85.2.
_base_ = "mini_swin_tiny_imagenet.py"
custom_imports = dict(imports=["halvit_mm", "halvit_mm.distillation"])
model = dict(
    type="DistilledClassifier",
    teacher=dict(
        config="mmpretrain::swin_transformer/swin-base_16xb64_in1k.py",
        checkpoint="https://mmassets.onedl.ai/mmclassification/v0/swin-transformer/convert/"
        "swin_base_patch4_window7_224_22kto1k-f967f799.pth",
    ),
    distillation=dict(prediction=dict(), attention=dict(), hidden=dict(weight=0.1)),
)
