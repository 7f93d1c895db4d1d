# Gradients and the optimiser's states divided among the processes (DeepSpeed's ZeRO, stage 2): a
# second base for configs without averaged weights. It needs a DeepSpeed that mmengine can import,
# which 0.19 is not, and was not run by us. Gradients are clipped and accumulated as the config's
# optim_wrapper says. Checkpoints are of weights alone, so that a training cannot be resumed.
runner_type = "FlexibleRunner"
strategy = dict(type="DeepSpeedStrategy", zero_optimization=dict(stage=2))
