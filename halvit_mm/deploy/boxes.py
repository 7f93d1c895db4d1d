"""Boxes in graphs: decoding, non-maximum suppression and picking, for any number of boxes.

The functions give mmdet's results and hold no step that asks how many boxes there are, so that a
graph traced on one image serves all images, also those on which nothing is found.
"""

import numpy as np
import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torchvision.ops import nms

from ..errors import UserError
from ..layers.sizes import Size

#: mmdet decodes no box whose sides differ more than this from those of its prior.
_MAX_LOG_RATIO = abs(np.log(16 / 1000))


class DeltaDecoder(nn.Module):
    """mmdet's ``DeltaXYWHBBoxCoder``: boxes from priors and the differences that a head predicts.

    Raises:
        UserError: The coder is of another type or does what this one does not.
    """

    def __init__(self, coder: object) -> None:
        super().__init__()
        from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

        if type(coder) is not DeltaXYWHBBoxCoder or coder.add_ctr_clamp or coder.use_box_type:
            raise UserError(
                f"bbox_coder {type(coder).__name__} cannot be exported as it is set; supported is "
                "DeltaXYWHBBoxCoder without add_ctr_clamp and use_box_type"
            )
        self.clip = coder.clip_border
        self.register_buffer("means", torch.tensor(coder.means), persistent=False)
        self.register_buffer("stds", torch.tensor(coder.stds), persistent=False)

    def forward(self, priors: Tensor, deltas: Tensor, size: Size) -> Tensor:
        """Priors (N, 4) and deltas (N, 4) → boxes (N, 4) within an image of ``size``."""
        deltas = deltas * self.stds + self.means
        shift, stretch = deltas[:, :2], deltas[:, 2:].clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        sides = priors[:, 2:] - priors[:, :2]
        centres = (priors[:, :2] + priors[:, 2:]) * 0.5 + sides * shift
        halves = sides * stretch.exp() * 0.5
        boxes = torch.cat((centres - halves, centres + halves), dim=1)
        return clip_boxes(boxes, size) if self.clip else boxes


def clip_boxes(boxes: Tensor, size: Size) -> Tensor:
    """Boxes (N, 4) cut at the border of an image of ``size`` (height, width)."""
    height, width = size
    x, y = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
    return torch.stack((x, y), dim=2).flatten(1)


class GroupedNMS(nn.Module):
    """Non-maximum suppression within groups, as mmcv's ``batched_nms`` does it.

    Args:
        cfg: ``nms`` of a head's ``test_cfg``.
        max_num: The most boxes that are kept; 0 or less: all.
        owner: The name of the part it is for, for messages.

    Raises:
        UserError: It is not the plain kind.
    """

    def __init__(self, cfg: ConfigDict | None, *, max_num: int, owner: str) -> None:
        super().__init__()
        options = dict(cfg or {})
        threshold = options.pop("iou_threshold", None)
        plain = options.pop("type", "nms") == "nms" and threshold is not None
        self.agnostic = options.pop("class_agnostic", False)
        options.pop("split_thr", None)  # how mmcv divides the work
        if not plain or options:
            raise UserError(
                f"{owner}.nms={cfg} cannot be exported; supported is "
                "dict(type='nms', iou_threshold=…, class_agnostic=…)"
            )
        # In the boxes' precision, as mmcv and onnxruntime compare: as a double, 0.7 lies above it.
        self.threshold = float(np.float32(threshold))
        self.max_num = max_num

    def forward(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> Tensor:
        """Boxes (N, 4), scores (N,) and groups (N,) int64 → indices (M,) of the best, by score."""
        if not self.agnostic:
            # Groups are moved apart. The zero is for images without boxes.
            reach = torch.cat((boxes.flatten(), boxes.new_zeros(1))).max() + 1
            boxes = boxes + (groups.to(boxes) * reach)[:, None]
        keep = nms(boxes, scores, self.threshold)
        return keep[: self.max_num] if self.max_num > 0 else keep
