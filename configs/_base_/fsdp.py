# Weights, gradients and the optimiser's states divided among the processes (FSDP) instead of held
# by each: a second base for configs without averaged weights (EMAHook), which are whole.
runner_type = "FlexibleRunner"
strategy = dict(type="SharedWeightFSDPStrategy")
