"""Reading checkpoints, and loading them only where they fit.

mmengine loads with ``strict=False``: a checkpoint of another architecture passes with a screen of
warnings and the model trains or tests with random weights. Here what fits is counted first.
"""

import hashlib
import importlib
import logging
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.model import BaseTTAModel, is_model_wrapper, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ..errors import UserError

#: Of a model's parameters, counted in elements, so many must come from the checkpoint.
MIN_FRACTION = 0.95

StateDict = dict[str, Tensor]


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


def check_file(path: str | Path) -> None:
    """Looks at a checkpoint's name and outer form only, which takes no time.

    Raises:
        UserError: The file is missing, empty, cut off, or no file of torch at all.
    """
    if _is_url(path):
        return
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    if magic.startswith(b"PK"):
        # The directory of a zip file stands at its end.
        if not zipfile.is_zipfile(path):
            raise UserError(
                f"{path}: the checkpoint is cut off; copy or download it again, "
                "or take an earlier one"
            )
    elif not magic.startswith(b"\x80"):  # torch before 1.6 wrote bare pickles
        raise UserError(f"{path}: this is not a checkpoint of PyTorch; give a .pth file")


def read_checkpoint(path: str | Path, *, weights_only: bool = True) -> dict[str, Any]:
    """Reads a whole checkpoint to the CPU.

    Args:
        path: A file, or an http(s) address, which is kept in torch's download cache.
        weights_only: Refuses pickles that would run code. What mmengine writes beside the weights
            (numpy numbers and log histories) is allowed.

    Raises:
        UserError: The file is missing or damaged, needs code to load, or holds no dict.
    """
    file = _download(str(path)) if _is_url(path) else Path(path).expanduser()
    check_file(file)
    try:
        with torch.serialization.safe_globals(_mmengine_globals()):
            checkpoint = torch.load(file, map_location="cpu", weights_only=weights_only)
    except UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path}: loading would run code ({wanted[1]}), which a file of weights need not; "
                "if you trust its source, load it with weights_only=False and save its state_dict"
            ) from error
        raise UserError(f"{path}: the checkpoint is damaged; copy or download it again") from error
    except Exception as error:  # damaged bytes can raise anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path}: the checkpoint is damaged ({reason}); copy or download it again"
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{path}: the file holds a {type(checkpoint).__name__}, not a dict of weights; "
            "save the model's state_dict() instead"
        )
    return checkpoint


def read_state_dict(path: str | Path, *, ema: bool = False, weights_only: bool = True) -> StateDict:
    """Reads the weights of a checkpoint: its ``state_dict``, its ``model``, or the whole file.

    Args:
        path: A file or an http(s) address.
        ema: Insists on averaged weights (see :func:`find_weights`).
        weights_only: See :func:`read_checkpoint`.

    Raises:
        UserError: See :func:`read_checkpoint`; or there are no (averaged) weights in the file.
    """
    return find_weights(read_checkpoint(path, weights_only=weights_only), path, ema=ema)


def find_weights(checkpoint: dict[str, Any], path: str | Path, *, ema: bool = False) -> StateDict:
    """The weights within a checkpoint that was read, without a leading ``module.``.

    With ``ema`` they are averaged weights or an error. mmengine's EMAHook exchanges the two when
    it saves: ``state_dict`` holds the average and ``ema_state_dict`` what was being trained. timm
    and DeiT keep the average as ``state_dict_ema`` and ``model_ema``.
    """
    if ema:
        key = {"ema_state_dict": "state_dict"} | {k: k for k in ("state_dict_ema", "model_ema")}
        found = next((key[k] for k in key if k in checkpoint), None)
        if found is None:
            raise UserError(f"{path}: the checkpoint has no averaged weights; read it without EMA")
        weights = checkpoint[found]
    else:
        weights = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    if not isinstance(weights, dict) or not any(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(f"{path}: there are no weights in this checkpoint; give a model's one")
    return {
        name.removeprefix("module."): value
        for name, value in weights.items()
        if isinstance(value, Tensor)
    }


def compare(model: nn.Module, state_dict: StateDict) -> LoadReport:
    """Finds out what of ``state_dict`` would load into ``model``; changes neither.

    Wrappers (DDP, test-time augmentation) are looked through. What modules do to a state dict
    while loading, such as resizing a position embedding, is taken into account.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    fitted = _fit(model, state_dict)
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}

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
    elements = {id(p): p.numel() for p in model.parameters()}
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
        load_backbone(module, self.checkpoint, min_fraction=self.min_fraction)
        # Backbones with an init_weights of their own look for this before they go on.
        module.init_cfg = dict(type="Pretrained", checkpoint=self.checkpoint)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"PretrainedBackbone: from {self.checkpoint}")


def _history_statistic(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in pickles, of which mmengine's histories need nothing else."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise UnpicklingError(f"Unsupported global: GLOBAL getattr({owner}, {name!r})")
    return getattr(owner, name)


def _mmengine_globals() -> list:
    """What mmengine's checkpoints hold beside tensors and plain types: numbers of numpy's."""
    multiarray = importlib.import_module(np.zeros(0).__reduce__()[0].__module__)  # numpy 1 and 2
    codes = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
    return [
        HistoryBuffer,
        (_history_statistic, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        multiarray._reconstruct,
        multiarray.scalar,
        *{type(np.dtype(code)) for code in codes},
    ]


def _fit(model: nn.Module, state_dict: StateDict) -> StateDict:
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


def _is_url(path: str | Path) -> bool:
    return urlparse(str(path)).scheme in ("http", "https")


def _download(url: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    # Half the world's checkpoints are called epoch_12.pth.
    digest = hashlib.sha256(url.encode()).hexdigest()
    file = folder / f"{digest[:8]}-{Path(urlparse(url).path).name}"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except OSError as error:
            raise UserError(f"{url}: the download failed ({error}); check the address") from error
    return file
