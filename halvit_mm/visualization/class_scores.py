"""How sure a model is of each class, as something to differentiate: what Grad-CAM explains."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UserError
from .view import View

#: Detections that Grad-CAM explains have at least this score; if none has, the best one is taken.
MIN_SCORE = 0.3


@dataclass(frozen=True, eq=False)
class Found:
    """What a model makes of an image, before anything is differentiated.

    Attributes:
        class_index: The class to explain.
        score: The highest score of this class, from 0 to 1.
        where: Which detections are explained: their boxes (n, 4), or their places among all that
            a single-stage detector looks at; None of a classifier.
    """

    class_index: int
    score: float
    where: Tensor | None = None


class Evidence(nn.Module):
    """Maps images to what speaks for each class, a tensor (1, number of classes)."""

    found: Found

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def find(self, view: View, class_index: int | None) -> Found | None:
        """Chooses what to explain: the class asked for, or that of the surest prediction.

        It stays in ``found``, for detectors to evaluate the same places again.

        Returns:
            None if a detector found nothing of the class at all.
        """
        raise NotImplementedError


class ClassifierEvidence(Evidence):
    """The logits of a classifier of mmpretrain."""

    def find(self, view: View, class_index: int | None) -> Found:
        probabilities = self(view.inputs)[0].softmax(0)
        index = int(probabilities.argmax()) if class_index is None else class_index
        return Found(index, float(probabilities[index]))

    def forward(self, images: Tensor) -> Tensor:
        """Images (1, 3, H, W) → logits (1, classes)."""
        return self.model(images, mode="tensor")


class DenseEvidence(Evidence):
    """Of a detector that scores places on maps: the logits of the sure places, added up."""

    def find(self, view: View, class_index: int | None) -> Found:
        scores = self._logits(view.inputs).sigmoid()
        index = int(scores.amax(0).argmax()) if class_index is None else class_index
        scores = scores[:, index]
        best = float(scores.max())
        self.found = Found(index, best, (scores >= min(best, MIN_SCORE)).nonzero()[:, 0])
        return self.found

    def forward(self, images: Tensor) -> Tensor:
        """Images (1, 3, H, W) → logits (1, classes), added up over the places found."""
        return self._logits(images)[self.found.where].sum(0, keepdim=True)

    def _logits(self, images: Tensor) -> Tensor:
        """The logits of all places and anchors of all levels (places, classes)."""
        head = self.model.bbox_head
        levels = head(self.model.extract_feat(images))[0]
        classes = head.cls_out_channels
        by_anchor = (x[0].unflatten(0, (-1, classes)) for x in levels)  # (anchors, classes, H, W)
        return torch.cat([x.transpose(0, 1).flatten(1).t() for x in by_anchor])


class RoIEvidence(Evidence):
    """Of a two-stage detector: the logits in the boxes of its detections, added up."""

    def find(self, view: View, class_index: int | None) -> Found | None:
        model, samples = self.model, list(view.samples)
        feats = model.extract_feat(view.inputs)
        proposals = model.rpn_head.predict(feats, samples, rescale=False)
        metas = [sample.metainfo for sample in samples]
        head = model.roi_head
        # Not the whole prediction: masks take time and explain nothing.
        detections = head.predict_bbox(feats, metas, proposals, head.test_cfg, rescale=False)[0]
        if class_index is not None:
            detections = detections[detections.labels == class_index]
        if not len(detections):
            return None
        best = int(detections.scores.argmax())
        index, score = int(detections.labels[best]), float(detections.scores[best])
        sure = (detections.labels == index) & (detections.scores >= min(score, MIN_SCORE))
        self.found = Found(index, score, detections.bboxes[sure])
        return self.found

    def forward(self, images: Tensor) -> Tensor:
        """Images (1, 3, H, W) → logits (1, classes), added up over the boxes found."""
        boxes = self.found.where
        rois = torch.cat((boxes.new_zeros(len(boxes), 1), boxes), dim=1)  # image 0 of the batch
        feats = self.model.extract_feat(images)
        return self.model.roi_head._bbox_forward(feats, rois)["cls_score"].sum(0, keepdim=True)


def evidence(model: nn.Module) -> Evidence:
    """What speaks for the classes of a classifier of mmpretrain or a detector of mmdet.

    Raises:
        UserError: The model is of another kind.
    """
    if not hasattr(model, "bbox_head") and not hasattr(model, "roi_head"):
        return ClassifierEvidence(model)
    from mmdet.models import StandardRoIHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    if isinstance(getattr(model, "roi_head", None), StandardRoIHead):
        return RoIEvidence(model)
    head = getattr(model, "bbox_head", None)
    if isinstance(head, BaseDenseHead) and getattr(head, "use_sigmoid_cls", False):
        return DenseEvidence(model)
    raise UserError(
        f"Grad-CAM: {type(model).__name__} with this head is not among the detectors it explains: "
        "Faster and Mask R-CNN, and single-stage ones with a sigmoid for each class, as RetinaNet"
    )
