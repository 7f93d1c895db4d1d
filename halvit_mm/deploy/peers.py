"""Other libraries' models through this project's exporter, to compare with."""

from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..errors import UserError
from .export import make_graph
from .graph import keep_weights_single

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class _Peer(nn.Module):
    """A classifier with the normalisation that ours have in their graphs."""

    output_names = ("logits",)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """(B, 3, H, W) RGB from 0 to 255 → logits."""
        return (self.model((image - self.mean) / self.std),)


def export_timm(name: str, folder: Path) -> Path:
    """Writes a model of timm with random weights to ``NAME.onnx`` in a folder.

    Raises:
        UserError: timm is not installed or has no such model.
    """
    try:
        import timm
    except ImportError:
        raise UserError("timm is not installed; `pip install timm`") from None
    if not timm.is_model(name):
        raise UserError(f"timm:{name}: timm has no such model; see timm.list_models()")
    model = timm.create_model(name)
    size = model.default_cfg["input_size"][1:]
    graph = make_graph(_Peer(model), tuple(size), any_size=False, any_batch=True)
    keep_weights_single(graph)
    path = folder / f"{name}.onnx"
    ir.save(graph, path)
    return path
