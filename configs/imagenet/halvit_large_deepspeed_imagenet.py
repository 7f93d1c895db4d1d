# HaLViT-Large with what training holds divided among the GPUs by DeepSpeed's ZeRO; without averaged
# weights.
_base_ = ["halvit_large_imagenet.py", "../_base_/deepspeed_zero2.py"]
custom_hooks = [hook for hook in _base_.custom_hooks if hook["type"] != "EMAHook"]
