"""Checkpoints without a training, and checkpoints changed by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from halvit_mm.inference import load_model


def save_initial(config: Path, checkpoint: Path, *, classes: tuple, **options: Any) -> Path:
    """Writes a checkpoint with the weights that training would start from."""
    torch.manual_seed(0)
    loaded = load_model(config, None, untrained=True, **options)
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=loaded.model.state_dict(), meta=meta), checkpoint)
    return checkpoint


def rewrite(checkpoint: Path, target: Path, change: Callable[[dict], Any]) -> Path:
    """Writes a changed copy of a checkpoint."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, target)
    return target
