"""Dense checkpoints of several libraries as dense models in this project's classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from .. import backbones
from ..checkpoints import read_state_dict, resnets, swins, vision_transformers
from ..checkpoints.reading import StateDict, find_weights
from ..errors import UserError
from .dense_twins import DenseWeights, read_resnet, read_swin, read_vit

#: Backbones with a half-weight form: what dense models they are made from, and who reads these.
_BACKBONES = {
    "HaLViT": ("plain ViT", read_vit),
    "MiniDeiT": ("plain ViT", read_vit),
    "MiniSwin": ("Swin", read_swin),
    "HalfResNet": ("ResNet", read_resnet),
    "HalfResNeXt": ("ResNet", read_resnet),
}
_SOURCES = {"ResNet": resnets, "plain ViT": vision_transformers, "Swin": swins}
#: Options of a backbone that change its training alone, or that a dense one has no use for.
_WITHOUT_USE = {
    *("_scope_", "init_cfg", "init_std", "zero_init_residual", "signed_ffn"),
    *("drop_path_rate", "frozen_stages", "norm_eval", "with_cp"),
}
#: Names that only models have whose weights serve more than once.
_HALF = re.compile(
    r"(backbone\.)?(layer[1-4]\.(?!\d)"
    r"|((stages|layers)\.\d+\.)?blocks\.\d+\.(attn\.(weight|bias_\w+)$|ffn\.(weight|bias_\w+)$"
    r"|block\.|norm[12]\.[1-9]|norm[12]_list\.|mix_|local|proj_[lw]\.))"
)


@dataclass(frozen=True, kw_only=True)
class DenseModel:
    """A dense model to halve.

    Attributes:
        title: What it was read from, in words.
        backbone: The half-weight backbone's class, dense, with the weights that were read; in
            evaluation mode, with nothing to train.
        head: The classifier's linear layer on pooled features, if the source has one.
        left_out: Parts of the source that are not used, with their numbers of tensors.
    """

    title: str
    backbone: nn.Module
    head: nn.Linear | None
    left_out: dict[str, int]


def read_dense(path: str | Path, half: Mapping[str, Any]) -> DenseModel:
    """Reads a checkpoint as a dense model in the class of a half-weight backbone.

    Args:
        path: A file or an http(s) address.
        half: Config of the half-weight backbone, with its ``type``.

    Raises:
        UserError: The file cannot be read, or not without running code; or see :func:`dense_model`.
    """
    return dense_model(read_state_dict(path), half, name=str(path))


def dense_model(
    weights: StateDict, half: Mapping[str, Any], *, name: str = "the weights"
) -> DenseModel:
    """Makes a dense model in the class of a half-weight backbone.

    What the weights tell (class token, LayerScale, norms of outputs) is as they tell it, and what
    they do not (number of heads, strides of a ResNet) as in ``half``. Position embeddings and
    tables of relative positions are resampled to the sizes in ``half``.

    Args:
        weights: Weights of one of the dense sources that :mod:`halvit_mm.checkpoints` knows, or of
            a dense twin in this project's names; of a whole model or of the backbone alone.
        half: Config of the half-weight backbone, with its ``type``.
        name: What errors call the weights.

    Raises:
        UserError: The weights are of no known dense model, not finite or not complete; or they are
            of other sizes than ``half``, so that nothing pairs them.
    """
    weights = find_weights(weights, name)
    try:
        read = _read(weights, dict(half))
        return DenseModel(
            title=read.title,
            backbone=_backbone(read),
            head=_head(read),
            left_out=read.left_out,
        )
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _read(weights: StateDict, half: dict[str, Any]) -> DenseWeights:
    if (name := half.get("type")) not in _BACKBONES:
        raise UserError(
            f"of dense weights no {name} can be made: choose a config whose backbone is one of "
            f"{', '.join(_BACKBONES)}"
        )
    wanted, read = _BACKBONES[name]
    if (kind := _kind(weights)) != wanted:
        raise UserError(
            f"these are the weights of a dense {kind}, where the config has a {name}: give those "
            f"of a dense {wanted}, or choose a config for a {kind}"
        )
    for tensor, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(
                f"{tensor} has values that are not finite: give a checkpoint from before the "
                "training diverged, or download the file again"
            )
    options = {
        option: value
        for option, value in half.items()
        if option not in _WITHOUT_USE and not option.startswith("second_")
    }
    try:
        with torch.device("meta"):
            twin = MODELS.build(options | getattr(backbones, name).dense_twin)
    except (TypeError, ValueError) as error:
        raise UserError(f"the config's backbone: {error}") from error
    return read(weights, options, twin)


def _kind(weights: StateDict) -> str:
    """What kind of dense model the weights are of."""
    if example := next((name for name in weights if _HALF.match(name)), None):
        raise UserError(
            f"the weights are of a model that uses them more than once already ({example}): give "
            "those of a dense one, such as its dense twin"
        )
    for kind, source in _SOURCES.items():
        if source.recognises(weights):
            return kind
    names = ", ".join(list(weights)[:3])
    titles = "; ".join(source.TITLE for source in _SOURCES.values())
    raise UserError(
        f"the weights ({names}, …) are of no known dense model: give those of one of this "
        f"project's dense twins, or of one of these: {titles}"
    )


def _backbone(read: DenseWeights) -> nn.Module:
    """The backbone, made without drawing random numbers or holding its weights twice."""
    with torch.device("meta"):
        backbone = MODELS.build(read.backbone)
    prefix = "backbone."
    weights = {
        name.removeprefix(prefix): _own(value)
        for name, value in read.state_dict.items()
        if name.startswith(prefix)
    }
    _check_types(backbone, weights, prefix)
    backbone.load_state_dict(weights, assign=True)
    return backbone.eval().requires_grad_(False)


def _head(read: DenseWeights) -> nn.Linear | None:
    if (weight := read.state_dict.get("head.fc.weight")) is None:
        return None
    classes, width = weight.shape
    head = nn.Linear(width, classes, device="meta")
    weights = dict(weight=_own(weight), bias=_own(read.state_dict["head.fc.bias"]))
    _check_types(head, weights, "head.fc.")
    head.load_state_dict(weights, assign=True)
    return head.eval().requires_grad_(False)


def _check_types(module: nn.Module, weights: StateDict, prefix: str) -> None:
    """Numbers that are whole by their type cannot be trained."""
    for name, _ in module.named_parameters():
        if name in weights and not weights[name].is_floating_point():
            raise UserError(
                f"{prefix}{name} is of type {weights[name].dtype}; give the checkpoint as it was "
                "trained, in floating point numbers"
            )


def _own(value: torch.Tensor) -> torch.Tensor:
    """A copy in the usual precision, whatever the file has."""
    dtype = torch.get_default_dtype() if value.is_floating_point() else value.dtype
    return value.detach().to(dtype, copy=True).contiguous()
