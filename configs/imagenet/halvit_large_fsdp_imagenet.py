# HaLViT-Large with what training holds divided among the GPUs by FSDP; without averaged weights.
_base_ = ["halvit_large_imagenet.py", "../_base_/fsdp.py"]
custom_hooks = [hook for hook in _base_.custom_hooks if hook["type"] != "EMAHook"]
