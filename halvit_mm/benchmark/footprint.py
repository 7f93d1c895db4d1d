"""Everything of a model that scales with the number of its weights, from real tensors, in bytes.

Called in the process of a model, like :mod:`halvit_mm.benchmark.subject`.
"""

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from .case import Case
from .counting import count_flops
from .sources import Source
from .subject import Subject
from .tasks import Task

#: Batches of noise that the error of bf16 is taken on, and their size.
ERROR_BATCHES = 5
ERROR_BATCH = 2

#: Names of the layer for classes in models whose backbone is not a part by itself.
_HEADS = ("head", "fc", "classifier")


def footprint(source: Source, case: Case) -> dict[str, list[float]]:
    """What a model takes, as ``{measure: values}``.

    Bytes are those of the whole model and of its backbone: ``weights`` (parameters), ``gradients``,
    ``optimiser state`` of AdamW after one step, ``checkpoint`` (what ``torch.save`` writes of the
    state dict) and ``all-reduced`` (what a step of DistributedDataParallel exchanges). ``FLOPs``
    are those of a forward pass without post-processing. ``bf16 error`` of classifiers is the
    largest difference that mixed precision makes to an output, relative to the largest output: one
    value for each of :data:`ERROR_BATCHES` batches.
    """
    subject = Subject(source, replace(case, mode="training", dtype="fp32", backend="eager"))
    model = subject.model
    weights = dict(model.named_parameters())
    tensors: dict[str, Mapping[str, Tensor]] = {"weights": weights}
    reduced = all_reduced(model, subject.task)
    model.zero_grad()
    subject.task.loss(model).backward()
    tensors["gradients"] = {k: w.grad for k, w in weights.items() if w.grad is not None}
    subject.optimizer.step()
    tensors["optimiser state"] = _optimiser_state(subject.optimizer, weights)
    checkpoint = model.state_dict()

    measures: dict[str, float] = {}
    for suffix, keep in (("", lambda name: True), (", backbone", in_backbone(model))):
        for measure, named in tensors.items():
            measures[measure + suffix] = stored_bytes(t for k, t in named.items() if keep(k))
        kept = {k: t for k, t in checkpoint.items() if keep(k)}
        measures["checkpoint" + suffix] = saved_bytes(kept if suffix else checkpoint)
        measures["all-reduced" + suffix] = sum(n for k, n in reduced.items() if keep(k))
    subject.optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        measures["FLOPs"] = count_flops(lambda: subject.task.forward(model))
    result = {measure: [value] for measure, value in measures.items()}
    if case.task == "classification":
        result["bf16 error"] = bf16_errors(model, case)
    return result


def in_backbone(model: nn.Module) -> Callable[[str], bool]:
    """Tells by the name of a parameter or buffer whether it belongs to the model's backbone."""
    if hasattr(model, "backbone"):
        return lambda name: name.startswith("backbone.")
    return lambda name: name.split(".")[0] not in _HEADS


def stored_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each storage once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def saved_bytes(state_dict: Mapping[str, Tensor]) -> int:
    """Bytes of the file that ``torch.save`` makes."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    return file.tell()


def all_reduced(model: nn.Module, task: Task) -> dict[str, int]:
    """Bytes that a training step on several devices exchanges, by the parameter's name.

    Counted in the buckets of a real DistributedDataParallel, in a group of this process alone.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    counted: dict[str, int] = {}

    def hook(group, bucket):
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            name = names[parameter]
            counted[name] = counted.get(name, 0) + gradient.nbytes
        return allreduce_hook(group, bucket)

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        # What a batch does not use would else be waited for, such as the masks of no instance.
        parallel = DistributedDataParallel(_Loss(model, task), find_unused_parameters=True)
        parallel.register_comm_hook(distributed.group.WORLD, hook)
        parallel().backward()
    finally:
        distributed.destroy_process_group()
    return counted


def bf16_errors(model: nn.Module, case: Case) -> list[float]:
    """Largest difference of mixed precision from fp32, relative to the largest output."""
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(ERROR_BATCHES):
        images = torch.randn(ERROR_BATCH, 3, *case.size, generator=generator).to(case.device)
        with torch.inference_mode():
            exact = model(images).float()
            with torch.autocast(case.device, torch.bfloat16):
                rounded = model(images).float()
        errors.append(((rounded - exact).abs().max() / exact.abs().max()).item())
    return errors


class _Loss(nn.Module):
    """The loss as the output of a module, which DistributedDataParallel wants."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self) -> Tensor:
        return self._task.loss(self.model)


def _optimiser_state(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    names = {weight: name for name, weight in weights.items()}
    return {
        f"{names[weight]}.{key}": value
        for weight, values in optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
