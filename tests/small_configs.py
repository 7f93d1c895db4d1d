"""Configs of real size, changed so that a training of them takes seconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

#: Longest side of an image, in pixels.
SIDE = 256


def write_small(source: Path, target: Path) -> Path:
    """Writes a config as ``target``: that in ``source`` with two images a batch, of at most
    ``SIDE`` pixels, no processes for loading, and one epoch or two iterations. Its models,
    losses, optimiser, schedules and transforms stay.
    """
    options = Config.fromfile(source).to_dict()
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if options.get(loader):
            options[loader] |= dict(num_workers=0, persistent_workers=False)
            most = 50 if "LabelledImages" in repr(options[loader]["dataset"]) else 2
            options[loader]["batch_size"] = min(most, options[loader].get("batch_size", 1))
            options[loader]["dataset"] = _with_small_images(options[loader]["dataset"])
    training = options.get("train_cfg") or {}
    for name, value in dict(max_epochs=1, max_iters=2, val_interval=1, val_begin=1).items():
        if name in training:
            training[name] = value
    checkpoint = (options.get("default_hooks") or {}).get("checkpoint")
    if checkpoint:
        checkpoint["interval"] = 1
    lines = [f"{name} = {value!r}\n" for name, value in options.items()]
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(lines))
    return target


def _with_small_images(value: Any) -> Any:
    """The same description of data, its transforms' sizes scaled down."""
    if isinstance(value, Mapping):
        return {
            name: _smaller(item)
            if name in ("scale", "crop_size", "img_scale", "size")
            else _with_small_images(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_with_small_images(item) for item in value)
    return value


def _smaller(size: Any) -> Any:
    """A side, (width, height), or a list of these, by one factor."""
    sides = [size] if isinstance(size, int) else list(size)
    if any(isinstance(side, (list, tuple)) for side in sides):
        return [_smaller(side) for side in sides]
    factor = min(1.0, SIDE / max(sides))
    scaled = [max(1, round(side * factor)) for side in sides]
    return scaled[0] if isinstance(size, int) else tuple(scaled)
