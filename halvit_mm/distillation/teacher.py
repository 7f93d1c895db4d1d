"""The teacher: a trained classifier of mmpretrain that is asked and never changed."""

from collections.abc import Collection
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..checkpoints import read_state_dict
from ..engine.config_errors import config_errors, load_config
from ..errors import UserError
from ..layers import LayerFeatures
from .twins import twin_of

Features = dict[int, LayerFeatures]

_SHOWN = 3  # of what is wrong with a checkpoint


class Teacher:
    """A frozen classifier, always in evaluation mode and without autograd.

    It is no ``nn.Module``, so that the model that asks it does not contain it: checkpoints,
    optimisers, averages of weights, wrappers and counts see the student alone. It follows its
    inputs from device to device, and copies of the student share it.

    Args:
        config: The classifier's config, a file or ``"mmpretrain::<folder>/<name>.py"``.
        checkpoint: Its weights, a file or an http(s) address.
    """

    def __init__(self, *, config: str, checkpoint: str) -> None:
        self.config = config
        self.checkpoint = checkpoint
        self._model: nn.Module | None = None
        self._options: dict[str, Any] = {}  # of its backbone
        self._normalization: tuple[Tensor, Tensor, bool] | None = None

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self

    @property
    def is_loaded(self) -> bool:
        """Whether :meth:`load` has been called."""
        return self._model is not None

    @property
    def backbone(self) -> nn.Module:
        """What makes its features; the whole model where it has no such part."""
        return getattr(self._model, "backbone", self._model)

    def load(self, preprocessor: nn.Module) -> None:
        """Builds the classifier and loads its weights; the random state stays as it was.

        Args:
            preprocessor: The student's data preprocessor, whose images the teacher will see.

        Raises:
            UserError: The config or the checkpoint is missing or wrong, or they do not belong
                together.
        """
        cfg = _read_config(self.config)
        with torch.random.fork_rng():
            model = _build(cfg, self.config)
        _load(model, self)
        self._model = model.requires_grad_(False).eval()
        self._options = dict(cfg.model.get("backbone") or {})
        self._normalization = _renormalization(
            _statistics(preprocessor, "data_preprocessor"),
            _statistics(model.data_preprocessor, f"data_preprocessor of teacher {self.config}"),
        )

    def offer_layers(self, size: tuple[int, int]) -> None:
        """Exchanges a backbone of mmpretrain's for the same one in this project's classes.

        Backbones of which there is no twin stay as they are. The random state does, too.

        Args:
            size: Height and width of images to compare both on.

        Raises:
            UserError: There is a twin, but not for this teacher's options.
        """
        if has_layers(self.backbone):
            return
        with torch.random.fork_rng():
            twin = twin_of(self.backbone, self._options, size)
        if twin is not None:
            self._model.backbone = twin.backbone.requires_grad_(False).eval()
            if twin.norm is not None:
                neck = [self._model.neck] if self._model.with_neck else []
                self._model.neck = nn.Sequential(twin.norm, *neck).eval()

    @torch.no_grad()
    def __call__(self, inputs: Tensor, layers: Collection[int] = ()) -> tuple[Tensor, Features]:
        """Looks at the images that the student sees.

        Args:
            inputs: Images (B, C, height, width), normalised for the student.
            layers: Numbers of layers, from 0, whose features are wanted.

        Returns:
            Scores (B, classes), and the features of each layer.
        """
        model = self._model.to(inputs.device)
        if self._normalization is not None:
            scale, shift, flip = self._normalization
            inputs = inputs.flip(1) if flip else inputs
            inputs = inputs * scale.to(inputs) + shift.to(inputs)
        if not layers:
            return model(inputs, mode="tensor"), {}
        feats, features = model.backbone.forward_features(inputs, layers)
        if model.with_neck:
            feats = model.neck(feats)
        return model.head(feats), features


def has_layers(backbone: nn.Module) -> bool:
    """Whether a backbone returns what its layers compute, as this project's transformers do."""
    return hasattr(backbone, "forward_features") and hasattr(backbone, "num_layers")


def _read_config(path: str) -> Config:
    try:
        if "::" not in str(path):
            return load_config(path)
        # Only the bases of a config are looked for among the installed packages.
        return Config.fromstring(f"_base_ = {str(path)!r}", ".py")
    except UserError as error:
        raise UserError(f"model.teacher.config={error}") from error
    except Exception as error:  # a config is a program and can raise anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"model.teacher.config={path}: {reason}") from error


def _build(cfg: Config, path: str) -> nn.Module:
    import mmpretrain.models  # noqa: F401

    if not isinstance(cfg.get("model"), dict):
        raise UserError(
            f"model.teacher.config={path}: there is no model; name a classifier's config"
        )
    model = deepcopy(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        model.setdefault("data_preprocessor", cfg.data_preprocessor)
    try:
        with config_errors(cfg), DefaultScope.overwrite_default_scope("mmpretrain"):
            return MODELS.build(model)
    except UserError as error:
        raise UserError(f"model.teacher.config={path}: {error}") from error


def _load(model: nn.Module, teacher: Teacher) -> None:
    try:
        weights = read_state_dict(teacher.checkpoint)
    except UserError as error:
        raise UserError(f"model.teacher.checkpoint={error}") from error
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    try:
        # Not `compare`: mmpretrain's wrappers of other libraries rename what they save and load.
        missing = model.load_state_dict(weights, strict=False).missing_keys
        # Whole numbers are counts of batches and indices that follow from the config.
        wrong = [f"missing {name}" for name in missing if tensors[name].is_floating_point()]
    except RuntimeError as error:  # of other shapes
        wrong = [line.strip() for line in str(error).splitlines()[1:]]
    except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
        wrong = [str(error)]  # what mmpretrain's models resize before they load it
    if wrong:
        more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError(
            f"model.teacher.checkpoint={teacher.checkpoint}: these are not the weights of "
            f"model.teacher.config={teacher.config}; give those that were trained with it\n  "
            + "\n  ".join(wrong[:_SHOWN])
            + more
        )
    print_log(f"Teacher {teacher.config} with {teacher.checkpoint}: all weights loaded", "current")


def _statistics(preprocessor: nn.Module, option: str) -> tuple[Tensor, Tensor, bool]:
    """Mean, standard deviation (C or 1, 1, 1), and whether channels are turned around before."""
    from mmpretrain.models import ClsDataPreprocessor

    if not isinstance(preprocessor, ClsDataPreprocessor):
        raise UserError(
            f"{option} is a {type(preprocessor).__name__}: distillation knows the normalisation "
            "of a ClsDataPreprocessor only"
        )
    if not preprocessor._enable_normalize:
        return torch.zeros(1, 1, 1), torch.ones(1, 1, 1), preprocessor.to_rgb
    return preprocessor.mean.cpu(), preprocessor.std.cpu(), preprocessor.to_rgb


def _renormalization(
    student: tuple[Tensor, Tensor, bool], teacher: tuple[Tensor, Tensor, bool]
) -> tuple[Tensor, Tensor, bool] | None:
    """The affine map from the student's inputs to the teacher's; None if they are the same.

    Returns:
        Scale and shift (C or 1, 1, 1) of the channels, and whether these are turned around before.
    """
    own_mean, own_std, own_rgb = student
    mean, std, rgb = teacher
    flip = own_rgb != rgb
    if flip:
        own_mean, own_std = own_mean.flip(0), own_std.flip(0)
    scale = own_std.double() / std
    shift = (own_mean.double() - mean) / std
    if not flip and bool((scale == 1).all() and (shift == 0).all()):
        return None
    return scale, shift, flip
