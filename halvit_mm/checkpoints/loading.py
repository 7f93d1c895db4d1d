"""Loading checkpoints only where they fit.

mmengine loads with ``strict=False``: a checkpoint of another architecture passes with a screen of
warnings and the model trains or tests with random weights. Here what fits is counted first.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ..errors import UserError
from .reading import StateDict, read_state_dict

#: Of a model's parameters, counted in elements, so many must come from the checkpoint.
MIN_FRACTION = 0.95


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What of a state dict fits a model.

    Attributes:
        loaded: Names that load as they are.
        resized: Names that the model itself fits while loading: a position embedding resampled to
            another input size, a class token that it has no use for.
        missing: Names of the model that the state dict lacks.
        unexpected: Names of the state dict that the model lacks.
        mismatched: Names that both have with different shapes: (the model's, the state dict's).
        fraction: Share of the model's parameters that load, counted in elements, from 0 to 1.
    """

    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    fraction: float

    @property
    def complete(self) -> bool:
        """Whether model and state dict match name by name."""
        return not (self.missing or self.unexpected or self.mismatched)

    def summary(self) -> str:
        """One line of counts."""
        return (
            f"{self.fraction:.1%} of the parameters: loaded {len(self.loaded)} tensors, "
            f"resized {len(self.resized)}, missing {len(self.missing)}, "
            f"unexpected {len(self.unexpected)}, of another shape {len(self.mismatched)}"
        )

    def details(self, limit: int = 10) -> str:
        """What did not match, one kind a line and at most ``limit`` names each."""
        shapes = [f"{name} {own} ≠ {given}" for name, (own, given) in self.mismatched.items()]
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape (model's ≠ checkpoint's)": shapes,
        }
        lines = []
        for kind, names in kinds.items():
            if names:
                more = f", … ({len(names) - limit} more)" if len(names) > limit else ""
                lines.append(f"  {kind}: {', '.join(names[:limit])}{more}")
        return "\n".join(lines)


def compare(
    model: nn.Module, state_dict: StateDict, *, ignored: Collection[str] = ()
) -> LoadReport:
    """Finds out what of ``state_dict`` would load into ``model``; changes neither.

    Wrappers (DDP, test-time augmentation) are looked through. What modules do to a state dict
    while loading, such as resizing a position embedding, is taken into account.

    Args:
        model: The model.
        state_dict: The weights.
        ignored: Names of the model's tensors that do not count at all.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    fitted = fit(model, state_dict)
    own = {
        name: value
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and name not in ignored
    }

    loaded, resized, missing, mismatched = [], [], [], {}
    for name, value in own.items():
        if name not in fitted:
            missing.append(name)
        elif fitted[name].shape != value.shape:
            mismatched[name] = (tuple(value.shape), tuple(fitted[name].shape))
        elif name in state_dict and state_dict[name].shape == value.shape:
            loaded.append(name)
        elif not name.endswith("num_batches_tracked"):  # BatchNorm fills in the count by itself
            resized.append(name)
    dropped = [name for name in state_dict if name not in fitted]

    fits = {*loaded, *resized}
    # A parameter under two names counts once.
    elements = {id(p): p.numel() for name, p in model.named_parameters() if name not in ignored}
    fitting = {id(p) for name, p in model.named_parameters(remove_duplicate=False) if name in fits}
    total = sum(elements.values())
    return LoadReport(
        loaded=tuple(loaded),
        resized=(*resized, *dropped),
        missing=tuple(missing),
        unexpected=tuple(name for name in fitted if name not in own),
        mismatched=mismatched,
        fraction=sum(elements[i] for i in fitting) / total if total else 1.0,
    )


def backbone_part(state_dict: StateDict) -> StateDict:
    """The backbone's weights within a whole model's (``backbone.*``), or all if they are bare."""
    prefix = "backbone."
    part = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    return part or state_dict


def load_backbone(
    backbone: nn.Module, path: str | Path, *, min_fraction: float = MIN_FRACTION
) -> LoadReport:
    """Loads a backbone's weights from the checkpoint of a whole model or of the bare backbone.

    Args:
        backbone: The module to load into.
        path: A file or an http(s) address.
        min_fraction: Share of the backbone's parameters that must fit.

    Raises:
        UserError: The file cannot be read, or less fits; nothing is loaded then.
    """
    state_dict = backbone_part(read_state_dict(path))
    report = compare(backbone, state_dict)
    if report.fraction < min_fraction:
        raise UserError(
            f"{path}: the checkpoint does not fit {type(backbone).__name__}, less than "
            f"{min_fraction:.0%} would load; give one of the same architecture, or lower "
            f"min_fraction beside the checkpoint in init_cfg\n"
            f"  {report.summary()}\n{report.details()}"
        )
    # torch raises on shapes even with strict=False.
    fitting = {name: value for name, value in state_dict.items() if name not in report.mismatched}
    backbone.load_state_dict(fitting, strict=False)
    print_log(f"{type(backbone).__name__} from {path}: {report.summary()}", "current")
    if not report.complete:
        print_log(f"What did not match:\n{report.details()}", "current", logging.WARNING)
    return report


@WEIGHT_INITIALIZERS.register_module()
class PretrainedBackbone:
    """Starts a backbone from the weights of another model with the same backbone.

    ``init_cfg=dict(type="PretrainedBackbone", checkpoint=None)`` in a config leaves the
    initialisation as it is, so that ``--cfg-options model.backbone.init_cfg.checkpoint=FILE`` is
    all that changes. The backbone's own initialisation runs first and the weights load after it.
    Backbones whose own initialisation is a *default* of ``init_cfg`` need it put in front, as
    ``init_cfg=[dict(type="Kaiming", …), dict(type="PretrainedBackbone", …)]``.

    Args:
        checkpoint: Checkpoint of a whole model or of the backbone, a file or an http(s) address.
        min_fraction: Share of the backbone's parameters that must fit.

    Raises:
        UserError: See :func:`load_backbone`; or another initialiser follows and would overwrite.
    """

    def __init__(
        self, *, checkpoint: str | None = None, min_fraction: float = MIN_FRACTION
    ) -> None:
        self.checkpoint = checkpoint
        self.min_fraction = min_fraction

    def __call__(self, module: nn.Module) -> None:
        name = type(module).__name__
        if self.checkpoint is None:
            print_log(f"{name} starts from scratch: init_cfg.checkpoint is None", "current")
            _warn_of_random_constants(module, module.state_dict().keys())
            return
        cfgs = getattr(module, "init_cfg", None)
        if isinstance(cfgs, list | tuple) and cfgs[-1]["type"] != type(self).__name__:
            raise UserError(
                f"init_cfg of {name}: {cfgs[-1]['type']} would overwrite the loaded weights; "
                "put PretrainedBackbone last"
            )
        # mmengine initialises children after this call; doing it now and marking them as done
        # keeps them from overwriting what is loaded.
        for child in module.children():
            if hasattr(child, "init_weights") and not getattr(child, "is_init", False):
                child.init_weights()
                child.is_init = True
        report = load_backbone(module, self.checkpoint, min_fraction=self.min_fraction)
        _warn_of_random_constants(module, report.missing)
        # Backbones with an init_weights of their own look for this before they go on.
        module.init_cfg = dict(type="Pretrained", checkpoint=self.checkpoint)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"PretrainedBackbone: from {self.checkpoint}")


def _warn_of_random_constants(module: nn.Module, missing: Collection[str]) -> None:
    """Detection configs keep fixed what ImageNet taught; what did not load would stay noise.

    Args:
        module: The backbone.
        missing: Names of its parameters and buffers that did not load.
    """
    owned = dict(module.named_parameters())
    options = []
    if any(name in owned and not owned[name].requires_grad for name in missing):
        options.append(f"frozen_stages={getattr(module, 'frozen_stages', '?')} (-1 trains all)")
    if getattr(module, "norm_eval", False) and any(n.endswith("running_mean") for n in missing):
        options.append("norm_eval=True (False trains the statistics)")
    if options:
        print_log(
            f"{type(module).__name__}: some of what {' and '.join(options)} keeps fixed has not "
            "been loaded and stays as it was initialised, unless load_from or --resume brings it",
            "current",
            logging.WARNING,
        )


def fit(model: nn.Module, state_dict: StateDict) -> StateDict:
    """The state dict as the model's modules change it while loading, without loading it.

    Each module's own loading code runs on a stand-in that shows its tensors but owns none, so
    there is nothing to copy into.
    """
    fitted = dict(state_dict)
    for name, module in model.named_modules(remove_duplicate=False):
        stand_in = object.__new__(type(module))
        stand_in.__dict__ = {
            **module.__dict__,
            **module._parameters,
            **module._buffers,
            "_parameters": {},
            "_buffers": {},
        }
        prefix = f"{name}." if name else ""
        stand_in._load_from_state_dict(fitted, prefix, {}, False, [], [], [])
    return fitted
