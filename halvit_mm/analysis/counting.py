"""Counts what a config's model costs, part by part, and compares it with its dense twin."""

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mmengine.config import Config
from torch import nn

from ..errors import UserError
from .parts import Part, backbone_stages, model_parts
from .sizes import CLASSIFIER_SIZE, DETECTOR_SIZE, Size, image_size, padded
from .tracing import Trace, storage_key
from .weightless import build_without_weights


@dataclass(frozen=True, kw_only=True)
class ModelCount:
    """What a model costs.

    Attributes:
        model: The model's class.
        backbone: The backbone's class.
        input_size: Height and width of the image, in pixels.
        padded_size: The same after the data preprocessor's padding.
        parts: Backbone, neck, and each head; together they are the model.
        stages: The backbone's parts; together they are the backbone.
        checkpoint_bytes: Bytes of all tensors of the state dict with 32-bit floats, each once;
            a file has some hundred bytes more for each tensor.
        dense_twin: The same config without weight sharing, where the backbone has such a form and
            is not it itself.
        twin_options: The backbone's options that make the twin.
    """

    model: str
    backbone: str
    input_size: Size
    padded_size: Size
    parts: tuple[Part, ...]
    stages: tuple[Part, ...]
    checkpoint_bytes: int
    dense_twin: "ModelCount | None" = None
    twin_options: dict[str, Any] | None = None

    @cached_property
    def without_head(self) -> Part:
        """The backbone."""
        return next(part for part in self.parts if part.name == "backbone")

    @cached_property
    def total(self) -> Part:
        """The whole model."""
        return Part(
            name="total",
            members=(),
            parameters=sum(part.parameters for part in self.parts),
            naive=sum(part.naive for part in self.parts),
            macs=sum(part.macs for part in self.parts),
        )

    @property
    def naive_checkpoint_bytes(self) -> int:
        """``checkpoint_bytes`` if every use of a weight had a copy of its own."""
        return self.checkpoint_bytes + 4 * (self.total.naive - self.total.parameters)


def count_model(cfg: Config, size: Size | None = None) -> ModelCount:
    """Counts a config's model and its dense twin, without making a weight or computing anything.

    The dense twin is what the backbone's class says in its attribute ``dense_twin``: options that
    switch the sharing of weights off.

    Args:
        cfg: A config of a detector of mmdet or a classifier of mmpretrain; it is not changed.
        size: Height and width of the image in pixels; default: :func:`image_size`.

    Raises:
        UserError: The config cannot be built, is not of these kinds, or cannot run on that size.
    """
    model = build_without_weights(cfg)
    count = _count(cfg, model, size)
    options = getattr(model.backbone, "dense_twin", None)
    if options is None:
        return count
    dense = deepcopy(cfg)
    dense.model.backbone.update(options)
    twin = build_without_weights(dense)
    if _shapes(twin) == _shapes(model):  # the config is its own twin
        return count
    return replace(count, dense_twin=_count(dense, twin, size), twin_options=dict(options))


def _count(cfg: Config, model: nn.Module, size: Size | None) -> ModelCount:
    """The count by itself, without a twin."""
    size = size or image_size(cfg, _usual_size(model))
    padded_size = padded(size, getattr(model.data_preprocessor, "pad_size_divisor", 1))
    trace = Trace(model, (cfg.model.backbone.get("in_channels", 3), *padded_size))
    return ModelCount(
        model=type(model).__name__,
        backbone=type(model.backbone).__name__,
        input_size=size,
        padded_size=padded_size,
        parts=model_parts(model, trace),
        stages=backbone_stages(model, trace),
        checkpoint_bytes=_state_dict_bytes(model),
    )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(param.shape) for name, param in model.named_parameters()}


def _usual_size(model: nn.Module) -> Size:
    """The size of images that this kind of model usually has.

    Raises:
        UserError: The model is neither a detector nor a classifier.
    """
    ancestors = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(model).__mro__}
    if "mmdet.BaseDetector" in ancestors:
        return DETECTOR_SIZE
    if "mmpretrain.BaseClassifier" in ancestors:
        return CLASSIFIER_SIZE
    raise UserError(
        f"model.type={type(model).__name__} is neither a detector of mmdet nor a classifier of "
        "mmpretrain; only these can be counted"
    )


def _state_dict_bytes(model: nn.Module) -> int:
    tensors = {storage_key(tensor): tensor for tensor in model.state_dict().values()}
    return sum(
        tensor.numel() * (4 if tensor.is_floating_point() else tensor.element_size())
        for tensor in tensors.values()
    )
