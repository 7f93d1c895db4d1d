"""Divides a model into its parts and a backbone into its stages."""

from dataclasses import dataclass

from torch import nn

from ..errors import UserError
from .tracing import Trace


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a model.

    Attributes:
        name: The module's name; ``"stem"`` for all of a backbone that is before its first stage.
        members: Names of the modules and parameters that it consists of.
        parameters: Elements of its parameters, each once.
        naive: The same as if every use of a weight had a copy of its own; a weight that is not
            used at all counts once. Only the backbone's uses are told apart: heads that run on
            each level with the same weights do so by design.
        macs: Multiply-accumulates for one image.
    """

    name: str
    members: tuple[str, ...]
    parameters: int
    naive: int
    macs: int


def model_parts(model: nn.Module, trace: Trace) -> tuple[Part, ...]:
    """Backbone, neck and each head; together they have all parameters of the model.

    Raises:
        UserError: The model has a part that is none of these.
    """
    owners = {}
    for name in _contents(model):
        if name == "roi_head":
            owners |= {f"{name}.{head}": f"{name}.{head}" for head in _contents(model.roi_head)}
        else:
            owners[name] = name
    parts = _collect(model, trace, owners)
    for part in parts:
        if part.name.split(".")[0] not in trace.parts:
            raise UserError(
                f"model.{part.name} is a part of {type(model).__name__} that cannot be counted; "
                "only backbone, neck, dense heads and RoI heads can"
            )
    return parts


def backbone_stages(model: nn.Module, trace: Trace) -> tuple[Part, ...]:
    """The backbone's parts in its own order; together they are the backbone.

    A stage is an element of a list of modules (``blocks.0``), or a child that consists of blocks,
    that is, of modules with modules (``layer1``). All before the first stage is the stem; what
    comes later and is no stage stands for itself (``norm``).
    """
    owners = {}
    started = False
    for name, child in _contents(model.backbone).items():
        if isinstance(child, nn.ModuleList):
            started = True
            owners |= {f"backbone.{name}.{i}": f"{name}.{i}" for i in range(len(child))}
        else:
            started = started or _has_blocks(child)
            owners[f"backbone.{name}"] = name if started else "stem"
    parts = _collect(model, trace, owners)
    rest = trace.macs("backbone") - sum(part.macs for part in parts)
    if rest:
        parts += (Part(name="outside of stages", members=(), parameters=0, naive=0, macs=rest),)
    return parts


def _collect(model: nn.Module, trace: Trace, owners: dict[str, str]) -> tuple[Part, ...]:
    """A part for each owner of modules and parameters, if it has parameters.

    Args:
        model: The model.
        trace: What happens in it.
        owners: The part's name by the full name of the module or parameter.
    """
    sizes = {name: param.numel() for name, param in model.named_parameters()}
    parts = []
    for part in dict.fromkeys(owners.values()):
        members = [member for member, owner in owners.items() if owner == part]
        names = [n for n in sizes for m in members if n == m or n.startswith(f"{m}.")]
        if names:
            parts.append(
                Part(
                    name=part,
                    members=tuple(m.removeprefix("backbone.") for m in members),
                    parameters=sum(sizes[name] for name in names),
                    naive=sum(max(sizes[name], trace.reads.get(name, 0)) for name in names),
                    macs=sum(trace.macs(m) for m in members),
                )
            )
    return tuple(parts)


def _contents(module: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    """Own parameters and children that have parameters, in the order of their making."""
    children = {
        name: child
        for name, child in module.named_children()
        if next(child.parameters(), None) is not None
    }
    return dict(module.named_parameters(recurse=False)) | children


def _has_blocks(child: nn.Module | nn.Parameter) -> bool:
    return isinstance(child, nn.Module) and any(
        next(block.children(), None) is not None for block in child.children()
    )
