# Classification by steps instead of epochs: what classification_runtime.py says, counted in steps.
_base_ = "classification_runtime.py"
# The one checkpoint is that of the last step, as no run has this many.
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=10**9, save_last=True))
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type="CheckpointGuardHook")]
