"""Test-time augmentation for detectors of boxes and masks."""

from typing import TYPE_CHECKING

import torch
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample


@MODELS.register_module()
class InstanceTTAModel(BaseTTAModel):
    """Merges a detector's predictions on several views of an image: resized or mirrored ones.

    The instances of all views, mirrored back, go through non-maximum suppression together; each
    that survives brings its mask along. mmdet's ``DetTTAModel`` does the same for boxes and
    refuses masks.

    Args:
        module: The detector or its config.
        iou_threshold: Overlap above which the lower score of two instances of a class goes.
        max_per_img: How many instances are kept.
        data_preprocessor: Replaces the detector's own.
    """

    def __init__(
        self,
        *,
        module: nn.Module | dict,
        iou_threshold: float = 0.5,
        max_per_img: int = 100,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(module, data_preprocessor)
        self.nms = dict(type="nms", iou_threshold=iou_threshold)
        self.max_per_img = max_per_img

    def merge_preds(self, data_samples_list: "list[list[DetDataSample]]") -> "list[DetDataSample]":
        """Merges the views (inner lists) of each image (outer list)."""
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: "list[DetDataSample]") -> "DetDataSample":
        from mmcv.ops import batched_nms

        merged = InstanceData.cat([_unmirrored(view) for view in views])
        if len(merged):
            scored, keep = batched_nms(merged.bboxes, merged.scores, merged.labels, self.nms)
            merged = merged[keep]
            merged.scores = scored[:, -1]
        views[0].pred_instances = merged[: self.max_per_img]
        return views[0]


def _unmirrored(view: "DetDataSample") -> InstanceData:
    """A view's instances in the coordinates of the image as it was before mirroring."""
    from mmdet.structures.bbox import bbox_flip

    instances = view.pred_instances
    if not view.get("flip", False):
        return instances
    direction = view.flip_direction
    axes = {"horizontal": [-1], "vertical": [-2], "diagonal": [-2, -1]}[direction]
    fields = dict(instances.items())
    fields["bboxes"] = bbox_flip(instances.bboxes, view.ori_shape, direction)
    if "masks" in fields:
        fields["masks"] = torch.flip(instances.masks, axes)  # (instances, height, width)
    return InstanceData(**fields)
