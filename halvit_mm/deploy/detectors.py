"""Whole detectors as one function of an image, for exporters to trace."""

from torch import Tensor, nn

from ..errors import UserError
from .dense_heads import DenseHead
from .pixels import Pixels
from .roi_heads import BoxHead, MaskHead


class ExportableDetector(nn.Module):
    """A detector of mmdet from pixels to boxes, in tensors only.

    Normalisation, padding, anchors, proposals and suppression are those of the detector and of its
    ``test_cfg``. What differs from ``model.predict`` is the form: one image, no Python structures,
    no step that depends on how many boxes there are.

    Args:
        model: Mask R-CNN, Faster R-CNN or RetinaNet. Its modules are used, not copied, and put
            into evaluation mode.
        score_threshold: Least score of a detection; None: as in ``test_cfg``.
        max_per_image: The most detections of an image; None: as in ``test_cfg``.

    Attributes:
        output_names: The names of what :meth:`forward` returns.

    Raises:
        UserError: The model has a part that is not supported; the message names it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        score_threshold: float | None = None,
        max_per_image: int | None = None,
    ) -> None:
        super().__init__()
        _check_types(model)
        limits = dict(score_threshold=score_threshold, max_num=max_per_image)
        self.pixels = Pixels(model.data_preprocessor)
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.mask_head = None
        self.output_names = ("boxes", "scores", "labels")
        if hasattr(model, "roi_head"):
            roi_head = model.roi_head
            self.rpn_head = DenseHead(model.rpn_head, by_level=True, owner="rpn_head")
            self.box_head = BoxHead(
                roi_head.bbox_head, roi_head.bbox_roi_extractor, roi_head.test_cfg, **limits
            )
            if roi_head.with_mask:
                self.mask_head = MaskHead(roi_head.mask_head, roi_head.mask_roi_extractor)
                self.output_names += ("masks",)
        else:
            self.rpn_head = None
            self.box_head = DenseHead(model.bbox_head, owner="bbox_head", **limits)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detects the objects in one image.

        Args:
            image: (1, 3, H, W) float32, RGB from 0 to 255, resized as the detector wants it; any H
                and W.

        Returns:
            Boxes (N, 4), x1 y1 x2 y2 in pixels of the image; scores (N,), falling; labels (N,)
            int64; for Mask R-CNN, masks (N, m, m), the probability that a point of the box is of
            the object.
        """
        size = (image.shape[2], image.shape[3])
        # Plain ViTs give maps whose channels lie innermost. Convolutions hand that on, but not
        # where exporters take them down, and views that were traced then do not fit.
        maps = self.neck(tuple(m.contiguous() for m in self.backbone(self.pixels(image))))
        if self.rpn_head is None:
            return self.box_head(maps, size)
        proposals, _, _ = self.rpn_head(maps, size)
        boxes, scores, labels = self.box_head(maps, proposals, size)
        if self.mask_head is None:
            return boxes, scores, labels
        return boxes, scores, labels, self.mask_head(maps, boxes, labels)


def _check_types(model: nn.Module) -> None:
    """Raises UserError unless the detector and its heads are of known types."""
    from mmdet.models import dense_heads, detectors, roi_heads
    from mmdet.models.roi_heads import bbox_heads, mask_heads

    one_stage = (detectors.RetinaNet, detectors.SingleStageDetector)
    two_stage = (detectors.MaskRCNN, detectors.FasterRCNN, detectors.TwoStageDetector)
    _expect("model", model, *one_stage, *two_stage)
    if type(model) in one_stage:
        _expect("bbox_head", model.bbox_head, dense_heads.RetinaHead)
        return
    _expect("rpn_head", model.rpn_head, dense_heads.RPNHead)
    roi_head = model.roi_head
    _expect("roi_head", roi_head, roi_heads.StandardRoIHead)
    if roi_head.with_shared_head:
        raise UserError("roi_head.shared_head cannot be exported; supported are heads without it")
    _expect(
        "roi_head.bbox_head",
        roi_head.bbox_head,
        bbox_heads.Shared2FCBBoxHead,
        bbox_heads.Shared4Conv1FCBBoxHead,
        bbox_heads.ConvFCBBoxHead,
    )
    if roi_head.with_mask:
        _expect("roi_head.mask_head", roi_head.mask_head, mask_heads.FCNMaskHead)


def _expect(name: str, part: object, *types: type) -> None:
    # Subclasses may do anything with what they inherit.
    if type(part) not in types:
        names = ", ".join(kind.__name__ for kind in types)
        raise UserError(f"{name} {type(part).__name__} cannot be exported; supported: {names}")
