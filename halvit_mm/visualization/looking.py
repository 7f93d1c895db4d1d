"""One picture of what goes on inside a model, for those who have room for one."""

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from .attention import Query, attention_layers, attention_maps
from .grad_cam import grad_cam
from .overlay import enlarged, overlay, spread, stretched
from .view import View, view

if TYPE_CHECKING:
    from ..inference import LoadedModel

#: Longest side of a picture in pixels: that of the image, but at the least and at the most this.
SMALLEST, LARGEST = 480, 1280


def attention_picture(loaded: "LoadedModel", image: np.ndarray) -> np.ndarray:
    """What a vision transformer looks at, over the image: the mean over its layers and heads.

    The class token looks, and where there is none, all places do.

    Args:
        loaded: The model.
        image: (height, width, 3) uint8, RGB.

    Returns:
        The part of the image that the model sees, (height, width, 3) uint8, RGB.

    Raises:
        UserError: The model has no attention, or its pipeline cannot process the image.
    """
    backbone = loaded.model.backbone
    # ResNets are refused before work is done.
    attention_layers(backbone, (1, 1))
    seen = view(loaded, image)
    canvas = _canvas(seen)
    stack = attention_layers(backbone, tuple(seen.inputs.shape[2:]))
    maps = attention_maps(backbone, seen.inputs, query=default_query(backbone))
    heats = []
    for i, looked_at in maps.items():
        heat = seen.cut(looked_at[0].mean(0), stack[i].stride).numpy()
        # Maps of several sizes, as Mini-Swin has them, meet in that of the picture.
        covers = seen.covers(stack[i].stride)
        heats.append(stretched(heat / heat.mean(), canvas.shape[:2], covers))
    return overlay(canvas, spread(np.mean(heats, axis=0)))


def grad_cam_picture(
    loaded: "LoadedModel", image: np.ndarray, *, class_index: int | None = None
) -> np.ndarray:
    """Which places of an image speak for a class.

    Args:
        loaded: The model.
        image: (height, width, 3) uint8, RGB.
        class_index: The class; default: that of the surest prediction.

    Returns:
        The part of the image that the model sees, (height, width, 3) uint8, RGB; without heat where
        a detector found nothing.

    Raises:
        UserError: Grad-CAM does not know the model, or its pipeline cannot process the image.
    """
    seen = view(loaded, image)
    explanation = grad_cam(loaded.model, seen, class_index=class_index)
    heat = np.zeros((1, 1)) if explanation is None else spread(explanation.heat, least=0)
    return overlay(_canvas(seen), heat)


def default_query(backbone: nn.Module) -> Query:
    """Who looks: the class token, which decides, or all places where there is none."""
    return "cls" if getattr(backbone, "num_extra_tokens", 0) else "mean"


def _canvas(seen: View) -> np.ndarray:
    longest = max(seen.image.shape[:2])
    return enlarged(seen.image, min(max(longest, SMALLEST), LARGEST))
