"""Which places of an image speak for a class: Grad-CAM of classifiers and detectors.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, as the package grad-cam computes it: a map of activations, its channels
weighted by the mean gradient of the class, without what is negative.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .activations import Point, check_layers, points
from .class_scores import evidence
from .view import View


@dataclass(frozen=True, eq=False)
class Explanation:
    """What speaks for a class.

    Attributes:
        heat: (height, width) float32 from 0 to 1 for each pixel of a view's ``size``.
        class_index: The class.
        score: How sure the model is of it, from 0 to 1; of a detector its best detection.
        count: How many detections are explained; None of a classifier.
    """

    heat: np.ndarray
    class_index: int
    score: float
    count: int | None


def grad_cam(
    model: nn.Module, view: View, *, class_index: int | None = None, layer: int | None = None
) -> Explanation | None:
    """Explains what a model sees in an image.

    Args:
        model: A classifier of mmpretrain or a detector of mmdet.
        view: The image.
        class_index: The class; by default that of the surest prediction.
        layer: Whose output the map is: a layer of a vision transformer or a stage of a ResNet, from
            0. Default: :func:`default_point`.

    Returns:
        None if a detector found nothing of the class.

    Raises:
        UserError: There is no such layer, or it explains no models of this kind.
    """
    # Here, as it brings scikit-learn along, which takes seconds.
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    reached = points(model.backbone, tuple(view.inputs.shape[2:]))
    if layer is not None:
        (layer,) = check_layers([layer], len(reached), option="--layer")
    else:
        layer = default_point(reached)
    scores = evidence(model)
    with torch.no_grad():
        found = scores.find(view, class_index)
    if found is None:
        return None
    with _gradients_of_activations_alone(model), reached[layer].passage() as passage:
        images = view.inputs.clone().requires_grad_()
        with GradCAM(scores, [passage], reshape_transform=reached[layer].to_map) as cam:
            heat = cam(images, [ClassifierOutputTarget(found.class_index)])[0]
    height, width = view.size
    count = None if found.where is None else len(found.where)
    return Explanation(heat[:height, :width], found.class_index, found.score, count)


def default_point(reached: Sequence[Point]) -> int:
    """Whose output Grad-CAM looks at: of ResNets the last stage's, else the last layer's but one.

    Beside the class token the output of the last layer counts for nothing. Without one it does, but
    there a few tokens of trained models are so much larger than all others that they are all that
    the map shows.
    """
    last = len(reached) - 1
    return last if reached[last].size is None else max(last - 1, 0)


@contextmanager
def _gradients_of_activations_alone(model: nn.Module) -> Iterator[None]:
    """Parameters get no gradients, which would take as much memory as they do."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_()
