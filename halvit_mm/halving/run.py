"""Halving: from a dense checkpoint to one of a half-weight model, unit by unit."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..benchmark.memory import highest_resident
from ..checkpoints.saving import new_file, save_checkpoint
from ..engine.config_errors import config_errors
from ..errors import UserError
from ..files import temporary_beside
from ..layers import SecondUse
from .calibration import calibration_images
from .pairing import pair
from .progress import Progress, fingerprint
from .reconstruction import Reconstruction, error_of, estimate_norms, reconstruct
from .report import Report, UnitReport
from .sources import DenseModel, read_dense
from .units import Unit

#: What a unit's weights are made by.
METHODS = {
    "average": "plain averages of the dense weights that become one",
    "aligned": "averages after what dense weights leave free is resolved",
    "reconstruction": "aligned, then trained to give what the dense blocks give, block by block",
}
_BATCH = 16  # images that run at a time where nothing is learnt
#: Where a unit gets no better, it begins anew at a learning rate so many times lower, in turn.
_SLOWER = (1, 4, 16)
_RIDGE = 0.1  # of a head that is fitted, in terms of its features' mean square


def halve(
    source: str | Path,
    target: str | Path,
    *,
    config: Config,
    calibration: str | Path | None = None,
    images: int = 256,
    img_size: int | tuple[int, int] | None = None,
    method: str = "reconstruction",
    reconstruction: Reconstruction | None = None,
    seed: int = 0,
) -> Report:
    """Turns a dense checkpoint into one of a half-weight model.

    The units of the backbone (blocks of a transformer, half-weight stages of a ResNet) are made one
    after the other. What is finished is kept in ``<target>.partial`` until all is: the same call
    goes on from there and ends with the same weights.

    Args:
        source: A dense checkpoint that :func:`~.sources.read_dense` knows.
        target: The file to write, with ``state_dict`` and ``meta``; it must not exist.
        config: The half-weight model's config, a classifier's or a detector's. Only classifiers
            with a single linear layer get a head.
        calibration: Folder of images; default: the config's own training set.
        images: How many of them are used.
        img_size: Side, or height and width, in pixels to which they are resized; default: what the
            config's test pipeline makes of them.
        method: One of :data:`METHODS`.
        reconstruction: How the last method learns.
        seed: Of the images that are drawn.

    Returns:
        What was done; the caller saves it.

    Raises:
        UserError: The dense checkpoint, the images or the target cannot be used; or ``target`` was
            begun in another way.
    """
    started = time.monotonic()
    if method not in METHODS:
        raise UserError(f"method={method!r} is unknown: choose one of {', '.join(METHODS)}")
    options = reconstruction or Reconstruction()
    if method != "reconstruction":
        options = Reconstruction(steps=0)
    target = new_file(target, source)

    half, head = _build(config)
    dense = read_dense(source, config.model.backbone)
    _check_classes(head, dense)
    with temporary_beside(target):
        pass  # whether it can be written; better now than after minutes
    pixels = calibration_images(
        config, folder=calibration, count=images, img_size=img_size, seed=seed
    )
    pairing = pair(half, dense.backbone, tuple(pixels.shape[-2:]))
    told = dict(seed=seed)
    if options.steps:
        batch_size = options.batch_size or "by size"
        told |= dict(steps=options.steps, batch_size=batch_size, lr=options.lr)
    key = fingerprint(
        [dense.backbone, dense.head], pixels, [method, told, dict(config.model.backbone)]
    )
    progress = Progress.of(target, key, half)

    x_half, x_dense = _run(pairing.enter_half, pixels), _run(pairing.enter_dense, pixels)
    for number, unit in enumerate(pairing.units):
        y_dense = _run(lambda x, unit=unit: unit.run_dense(x)[-1], x_dense)
        if number >= len(progress.reports):
            generator = torch.Generator().manual_seed(1000 * seed + number)
            report = _halve_unit(
                unit, x_half, x_dense, y_dense, method=method, options=options, generator=generator
            )
            progress.add(report, half, seconds=time.monotonic() - started)
        x_half = _run(lambda x, unit=unit: unit.run_half(x)[-1], x_half)
        x_dense = y_dense

    notes = []
    agreement = divergence = None
    whole = nn.ModuleDict({"backbone": half})
    whole_dense = nn.ModuleDict({"backbone": dense.backbone})
    if head is not None and dense.head is not None:
        whole["head"] = nn.ModuleDict({"fc": head})  # as LinearClsHead calls it
        whole_dense["head"] = dense.head
        features = _run(pairing.leave_half, x_half)
        scores = _run(lambda x: dense.head(pairing.leave_dense(x)), x_dense)
        head.load_state_dict(dense.head.state_dict())
        if _reads_otherwise(half, dense.backbone):
            _fit_head(head, features, scores)
            notes.append(
                "the dense head reads other features than the half-weight one (a class token, a "
                "mean over tokens), which was therefore fitted to the dense model's scores"
            )
        agreement, divergence = _compare(head(features), scores)
    elif head is not None:
        notes.append("the dense checkpoint has no head for classes: the new one stays fresh")

    report = Report(
        source=f"{dense.title} in {source}",
        checkpoint=str(target),
        config=str(config.filename or "the config"),
        method=method,
        options=told,
        units=tuple(progress.reports),
        parameters_dense=_count(whole_dense),
        parameters_half=_count(whole),
        corrections=sum(_count(m) for m in half.modules() if isinstance(m, SecondUse)),
        bytes_dense=_bytes(whole_dense),
        bytes_half=_bytes(whole),
        images=len(pixels),
        agreement=agreement,
        divergence=divergence,
        seconds=progress.seconds_before + time.monotonic() - started,
        peak_memory=highest_resident(),
        left_out=dict(dense.left_out),
        notes=tuple(notes),
    )
    _write(dict(whole.state_dict()), report, target)
    progress.discard()
    return report


def _build(config: Config) -> tuple[nn.Module, nn.Linear | None]:
    """The half-weight backbone and its head, as far as that is one linear layer."""
    model = config.get("model") or {}
    if not isinstance(model.get("backbone"), dict):
        raise UserError(f"{config.filename}: there is no model.backbone; name a model's config")
    with config_errors(config):
        backbone = MODELS.build({**model.backbone, "init_cfg": None}).float().eval()
    head = model.get("head") or {}
    if head.get("type") != "LinearClsHead":
        return backbone, None
    return backbone, nn.Linear(head["in_channels"], head["num_classes"])


def _check_classes(head: nn.Linear | None, dense: DenseModel) -> None:
    if head is None or dense.head is None or head.out_features == dense.head.out_features:
        return
    raise UserError(
        f"the dense model tells {dense.head.out_features} classes apart, the config's model "
        f"{head.out_features}: halve it with --cfg-options "
        f"model.head.num_classes={dense.head.out_features}, and change the head afterwards with "
        "tools/train.py --new-head"
    )


def _halve_unit(
    unit: Unit,
    x_half: Tensor,
    x_dense: Tensor,
    y_dense: Tensor,
    *,
    method: str,
    options: Reconstruction,
    generator: torch.Generator,
) -> UnitReport:
    """Sets a unit's weights; says how near it came to the dense piece."""
    started = time.monotonic()
    unit.start(align=method != "average")
    unit.fit(x_half.split(_BATCH))
    batch_size = options.images_in_a_step(x_half)
    estimate_norms(unit, x_half, batch_size=batch_size)
    # A piece of several layers has more outputs than the one at hand.
    targets = y_dense if len(_outputs(unit, x_dense)) == 1 else None

    def error() -> float:
        return error_of(unit, x_half, x_dense, targets, batch_size=_BATCH)

    first = last = error()
    if options.steps:
        before = deepcopy(unit.half.state_dict())
        for slower in _SLOWER:
            _learn(
                unit, x_half, x_dense, targets, replace(options, lr=options.lr / slower), generator
            )
            estimate_norms(unit, x_half, batch_size=batch_size)
            last = error()
            if last < first:  # not so where it is not a number
                break
            unit.half.load_state_dict(before)
            last = first
    return UnitReport(
        name=unit.name,
        parameters_dense=_count(unit.dense),
        parameters_half=_count(unit.half),
        error_start=first,
        error=last,
        seconds=time.monotonic() - started,
    )


def _learn(
    unit: Unit,
    x_half: Tensor,
    x_dense: Tensor,
    targets: Tensor | None,
    options: Reconstruction,
    generator: torch.Generator,
) -> None:
    """Reconstruction with a progress bar, where there is a terminal."""
    with tqdm(total=options.steps, desc=unit.name, unit="step", disable=None) as bar:

        def advance(loss: float) -> None:
            bar.set_postfix(error=f"{loss:.3g}", refresh=False)
            bar.update()

        reconstruct(
            unit,
            x_half,
            x_dense,
            targets,
            options=options,
            generator=generator,
            advance=advance,
        )


@torch.no_grad()
def _outputs(unit: Unit, x_dense: Tensor) -> list[Tensor]:
    return unit.run_dense(x_dense[:1])


@torch.no_grad()
def _run(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of images, some at a time."""
    out = None
    for start in range(0, len(x), _BATCH):
        y = function(x[start : start + _BATCH])
        if out is None:
            out = y.new_empty(len(x), *y.shape[1:])
        out[start : start + _BATCH] = y
    return out


def _reads_otherwise(half: nn.Module, dense: nn.Module) -> bool:
    return getattr(half, "out_type", None) != getattr(dense, "out_type", None)


@torch.no_grad()
def _fit_head(head: nn.Linear, features: Tensor, scores: Tensor) -> None:
    """Ridge regression of scores (images, classes) on features (images, dim), towards the head's
    present weights where the images say nothing."""
    features, scores = features.double(), scores.double()
    mean = features.mean(0)
    weight = head.weight.double()
    rest = scores - scores.mean(0) - (features - mean) @ weight.t()
    gram = (features - mean).t() @ (features - mean)
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    weight = weight + torch.linalg.solve(gram, (features - mean).t() @ rest).t()
    head.weight.copy_(weight)
    head.bias.copy_(scores.mean(0) - weight @ mean)


@torch.no_grad()
def _compare(scores: Tensor, dense: Tensor) -> tuple[float, float]:
    """Share of equal classes, and mean divergence in nats, of scores (images, classes)."""
    same = (scores.argmax(1) == dense.argmax(1)).double().mean()
    logs, dense_logs = (F.log_softmax(s.double(), dim=1) for s in (scores, dense))
    apart = F.kl_div(logs, dense_logs, log_target=True, reduction="batchmean")
    return float(same), float(apart)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in module.state_dict().values())


def _write(weights: dict[str, Tensor], report: Report, target: Path) -> None:
    from .. import __version__

    meta = dict(
        source=report.source,
        method=report.method,
        options=report.options,
        images=report.images,
        halvit_mm_version=__version__,
    )
    save_checkpoint({"state_dict": weights, "meta": meta}, target)
