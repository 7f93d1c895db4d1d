# What every classification config here adds to mmpretrain's own runtime settings.
_base_ = "mmpretrain::_base_/default_runtime.py"

custom_imports = dict(imports=["halvit_mm"], allow_failed_imports=False)
# Refuses a checkpoint of which less than 95% fits the model; mmengine alone would go on silently.
custom_hooks = [dict(type="CheckpointGuardHook")]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
