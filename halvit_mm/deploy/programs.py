"""Models as functions of tensors alone, and the graphs that ``torch.export`` makes of them."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..errors import UserError
from ..layers import fold_batch_norms
from .pixels import Pixels

Part = Literal["model", "backbone"]

#: The first release of torch that traces lists whose length only running the graph tells.
_FOR_DETECTORS = (2, 10)


class ExportableClassifier(nn.Module):
    """A classifier of mmpretrain from pixels to logits.

    Args:
        model: An ``ImageClassifier``. Its modules are used, not copied.

    Attributes:
        output_names: The names of what :meth:`forward` returns.

    Raises:
        UserError: Its preprocessing or its head cannot be exported.
    """

    output_names = ("logits",)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.pixels = Pixels(model.data_preprocessor)
        if getattr(model, "head", None) is None or not hasattr(model.head, "fc"):
            raise UserError(
                f"head {type(getattr(model, 'head', None)).__name__} cannot be exported; supported "
                "are heads of one linear layer"
            )
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.head = model.head
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Images (B, 3, H, W) float32, RGB from 0 to 255, as large as the classifier wants them →
        logits (B, classes)."""
        return (self.head(self.neck(self.backbone(self.pixels(image)))),)


class ExportableBackbone(nn.Module):
    """The backbone of a model from pixels to features, with the model's own preprocessing.

    Args:
        pixels: Turns images into what the backbone takes.
        backbone: The backbone.

    Attributes:
        output_names: ``feature_0`` and so on, one for each output of the backbone.
    """

    def __init__(self, pixels: nn.Module, backbone: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels
        self.backbone = backbone
        indices = getattr(backbone, "out_indices", (0,))
        self.output_names = tuple(f"feature_{i}" for i in range(len(indices)))
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) float32, RGB from 0 to 255 → the backbone's outputs."""
        return self.backbone(self.pixels(image))


def exportable(model: nn.Module, *, part: Part = "model") -> nn.Module:
    """The function of tensors that a detector, a classifier or its backbone is.

    BatchNorms become part of the convolutions beside them, in ``model`` itself.

    Raises:
        UserError: The model has a part that cannot be exported, or torch is too old for it.
    """
    from .detectors import ExportableDetector

    is_detector = hasattr(model, "rpn_head") or hasattr(model, "bbox_head")
    if is_detector and part == "model" and torch.__version__ < _FOR_DETECTORS:
        lowest = ".".join(map(str, _FOR_DETECTORS))
        raise UserError(
            f"torch {torch.__version__} cannot trace what follows the non-maximum suppression: "
            f"take torch {lowest} or newer, or export the backbone alone"
        )
    fold_batch_norms(model.eval())
    if part == "backbone":
        return ExportableBackbone(Pixels(model.data_preprocessor), model.backbone)
    return ExportableDetector(model) if is_detector else ExportableClassifier(model)


def trace(
    module: nn.Module, size: tuple[int, int], *, any_size: bool, any_batch: bool
) -> ExportedProgram:
    """Makes a graph of an exportable module; its weights stay the module's.

    Args:
        module: See :func:`exportable`.
        size: Height and width of the images in pixels.
        any_size: Makes one graph for images of all sizes.
        any_batch: Makes one graph for all numbers of images.

    Raises:
        UserError: The graph depends on what it was to be independent of.
    """
    batch = 2 if any_batch else 1  # a batch of 1 would be taken for a fact
    image = torch.rand(batch, 3, *size, device=_device(module)) * 255
    dynamic: dict[int, Dim] = {}
    if any_batch:
        dynamic[0] = Dim.DYNAMIC
    if any_size:
        dynamic |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with torch.no_grad():
        # Releases of torch differ in which way of tracing they take unasked.
        return torch.export.export(
            module, (image,), dynamic_shapes={"image": dynamic}, strict=False
        )


def _device(module: nn.Module) -> torch.device:
    return next(iter(module.parameters())).device
