"""Whether an exported model does in onnxruntime what it does in PyTorch, on real images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..inference.models import LoadedModel
from ..inference.pipeline import prepare
from .agreement import compare_detections
from .exported_model import ExportedModel
from .preprocessing import apply


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far outputs may be apart.

    Attributes:
        outputs: Of logits and features: the largest difference in units of the largest value, or
            of 1 where that is larger.
        iou: Least overlap of boxes that are taken for the same.
        score: Largest difference between their scores.
        unmatched: Share of the boxes that may lack a counterpart.
    """

    outputs: float
    iou: float
    score: float
    unmatched: float = 0.0


#: fp32 has nothing to lose. The others show how much it is; they are refused only where the result
#: cannot be meant. What they cost in accuracy is measured on a test set.
TOLERANCES = {
    "fp32": Tolerance(outputs=1e-4, iou=0.99, score=1e-3),
    "fp16": Tolerance(outputs=0.02, iou=0.9, score=0.05, unmatched=0.1),
    "int8-weights": Tolerance(outputs=0.2, iou=0.5, score=0.3, unmatched=0.5),
    "int8-dynamic": Tolerance(outputs=0.5, iou=0.5, score=0.5, unmatched=0.5),
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """What comes of comparing an exported model with its origin.

    Attributes:
        images: How many images both have seen.
        agrees: Whether all differences are within the tolerance.
        largest: The largest difference of logits or features; of scores for detectors.
        boxes: Boxes that PyTorch finds; 0 for all but detectors.
        matched: Those that onnxruntime finds as well.
        worst_iou: Least overlap of such a pair.
        differences: What differs, a sentence each.
    """

    images: int
    agrees: bool
    largest: float
    boxes: int = 0
    matched: int = 0
    worst_iou: float = 1.0
    differences: tuple[str, ...] = ()

    def summary(self) -> str:
        """Some lines for people."""
        on = f"on {self.images} image{'s' * (self.images > 1)}"
        if self.boxes:
            line = (
                f"{self.matched} of {self.boxes} boxes are as in PyTorch {on}: overlap at least "
                f"{self.worst_iou:.4f}, scores at most {self.largest:.1e} apart"
            )
        else:
            line = f"outputs are at most {self.largest:.1e} from PyTorch's {on}"
        return "\n".join([line, *(f"  {difference}" for difference in self.differences[:5])])


def check(
    loaded: LoadedModel, exported: ExportedModel, images: Sequence[np.ndarray], *, precision: str
) -> Check:
    """Runs both on images, each from the pixels of a file on.

    Args:
        loaded: The model in PyTorch.
        exported: The same in onnxruntime.
        images: Each (height, width, 3) uint8 in RGB.
        precision: Says which of :data:`TOLERANCES` counts.
    """
    tolerance = TOLERANCES[precision]
    if exported.task == "detection":
        return _check_boxes(loaded, exported, images, tolerance)
    largest, differences = 0.0, []
    for image in images:
        expected = _outputs(loaded, image, features=exported.task == "features")
        got = exported.run(apply(exported.steps, image)[None])
        for (name, ours), theirs in zip(got.items(), expected, strict=True):
            if ours.shape != theirs.shape:
                differences.append(f"{name} has shape {ours.shape} instead of {theirs.shape}")
                continue
            difference = float(np.abs(ours - theirs).max())
            largest = max(largest, difference)
            if not difference <= tolerance.outputs * max(1, float(np.abs(theirs).max())):
                differences.append(f"{name} differs by {difference:.1e}")
    return Check(
        images=len(images),
        agrees=not differences,
        largest=largest,
        differences=tuple(differences),
    )


@torch.inference_mode()
def _outputs(loaded: LoadedModel, image: np.ndarray, *, features: bool) -> list[np.ndarray]:
    model = loaded.model
    pixels = model.data_preprocessor(prepare(loaded, [image]), False)["inputs"]
    outs = model.backbone(pixels) if features else (model(pixels, mode="tensor"),)
    return [out.cpu().numpy() for out in outs]


def _check_boxes(
    loaded: LoadedModel,
    exported: ExportedModel,
    images: Sequence[np.ndarray],
    tolerance: Tolerance,
) -> Check:
    options = getattr(loaded.model, "roi_head", loaded.model).test_cfg
    limits = dict(score_threshold=options.score_thr, max_per_image=options.max_per_img)
    boxes = matched = 0
    worst_iou, worst_score, differences = 1.0, 0.0, []
    for image in images:
        with torch.inference_mode():
            sample = loaded.model.test_step(prepare(loaded, [image]))[0]
        expected = sample.pred_instances.cpu().numpy()
        (got,) = exported.predict([image])
        agreement = compare_detections(
            (expected.bboxes, expected.scores, expected.labels),
            (got.boxes, got.scores, got.labels),
            iou=tolerance.iou,
            score=tolerance.score,
            **limits,
        )
        boxes += len(expected.scores)
        matched += len(agreement.pairs)
        worst_iou = min(worst_iou, agreement.worst_iou)
        worst_score = max(worst_score, agreement.worst_score)
        differences.extend(agreement.differences)
        if got.masks is not None:
            differences.extend(_masks_apart(expected.masks, got.masks, agreement.pairs, tolerance))
    allowed = tolerance.unmatched * max(boxes, 1)
    return Check(
        images=len(images),
        agrees=len(differences) <= allowed,
        largest=worst_score,
        boxes=boxes,
        matched=matched,
        worst_iou=worst_iou,
        differences=tuple(differences),
    )


def _masks_apart(
    expected: np.ndarray, got: np.ndarray, pairs: np.ndarray, tolerance: Tolerance
) -> list[str]:
    """Masks of the same box that are not the same."""
    apart = []
    for i, j in pairs.tolist():
        both, either = (expected[i] & got[j]).sum(), (expected[i] | got[j]).sum()
        # Pixels on the rim may fall to either side; small masks have little else.
        if both < tolerance.iou * either and either - both > 4:
            apart.append(f"the masks of a box overlap by {both / either:.3f} only")
    return apart
