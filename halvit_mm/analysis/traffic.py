"""What processes that train one model send each other: the gradients that DDP adds up."""

from copy import deepcopy
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from torch import distributed, nn
from torch.distributed import GradBucket
from torch.futures import Future

from ..errors import UserError
from .synthetic import synthetic_batch
from .weightless import build_without_weights


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a process hands to the all-reduces of one training step.

    Attributes:
        bytes: Bytes of the gradients, of all buckets together.
        parameters: Trained parameters.
    """

    bytes: int
    parameters: int


def measure_traffic(cfg: Config) -> tuple[Traffic, Traffic | None]:
    """Trains a classifier for one step on noise under DDP and counts what it all-reduces.

    A process alone hands over the same buckets as one of many, and so none other is needed. What
    then travels depends on the all-reduce: in a ring of n processes each sends 2 (n − 1) / n times
    these bytes, in proportion to them in any case.

    Args:
        cfg: A config of mmpretrain; it is not changed.

    Returns:
        The figures of the model and of its dense twin; None where the backbone has none.

    Raises:
        UserError: The config is not one of a classifier, or this process has joined others.
    """
    if distributed.is_initialized():
        raise UserError("traffic is measured in a process of its own, not in one of several")
    cfg = deepcopy(cfg)
    cfg.train_dataloader.batch_size = 2  # gradients have one size, whatever the batch has
    if cfg.get("data_preprocessor") is not None:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    options = getattr(build_without_weights(cfg).backbone, "dense_twin", None)
    with TemporaryDirectory() as folder:
        distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            ours = _measure(cfg)
            if options is None:
                return ours, None
            cfg.model.backbone.update(options)
            return ours, _measure(cfg)
        finally:
            distributed.destroy_process_group()


def _measure(cfg: Config) -> Traffic:
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        model = MODELS.build(deepcopy(cfg.model)).train()
        batch = synthetic_batch(cfg)
    sizes: list[int] = []
    wrapper = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    wrapper.register_comm_hook(sizes, _note_size)
    wrapper.train_step(batch, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0)))
    return Traffic(bytes=sum(sizes), parameters=_trained(model))


def _note_size(sizes: list[int], bucket: GradBucket) -> Future[torch.Tensor]:
    """Stands in for DDP's all-reduce, which of one process's gradients gives the same."""
    gradients = bucket.buffer()
    sizes.append(gradients.numel() * gradients.element_size())
    result = Future()
    result.set_result(gradients)
    return result


def _trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
