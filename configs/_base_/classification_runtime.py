# What every classification config here adds to mmpretrain's own runtime settings.
_base_ = "mmpretrain::_base_/default_runtime.py"

custom_imports = dict(imports=["halvit_mm"], allow_failed_imports=False)
custom_hooks = [
    # Refuses a checkpoint of which less than 95% fits; mmengine alone would go on silently.
    dict(type="CheckpointGuardHook"),
    # ImageNet's epochs take hours on one GPU: `--resume` loses 1000 iterations at most.
    dict(type="MidEpochCheckpointHook", interval=1000),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
