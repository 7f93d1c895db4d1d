"""Dense heads in graphs: RetinaNet's detections and an RPN's proposals."""

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..layers.sizes import Size
from .boxes import DeltaDecoder, GroupedNMS


class DenseHead(nn.Module):
    """mmdet's ``RetinaHead`` or ``RPNHead`` with its anchors, decoding and suppression.

    Args:
        head: The head; it is used, not copied.
        score_threshold: Least score of a box; None: as in the head's ``test_cfg``.
        max_num: The most boxes of an image; None: as in the head's ``test_cfg``.
        by_level: Suppress boxes of the same level instead of boxes of the same class.
        owner: The name of the head in its detector, for messages.

    Raises:
        UserError: The head does what this module does not.
    """

    def __init__(
        self,
        head: nn.Module,
        *,
        score_threshold: float | None = None,
        max_num: int | None = None,
        by_level: bool = False,
        owner: str,
    ) -> None:
        super().__init__()
        from mmdet.models.task_modules.prior_generators import AnchorGenerator

        if type(head.prior_generator) is not AnchorGenerator:
            raise UserError(
                f"{owner}.anchor_generator {type(head.prior_generator).__name__} cannot be "
                "exported; supported is AnchorGenerator"
            )
        if not head.use_sigmoid_cls or getattr(head.loss_cls, "custom_cls_channels", False):
            raise UserError(
                f"{owner}.loss_cls {type(head.loss_cls).__name__} gives scores that cannot be "
                "exported; supported are losses with use_sigmoid=True"
            )
        cfg = head.test_cfg
        self.head = head
        self.decode = DeltaDecoder(head.bbox_coder)
        if score_threshold is None:
            score_threshold = -1 if by_level else cfg.get("score_thr", 0)  # an RPN has none
        self.score_threshold = score_threshold
        self.nms_pre = cfg.get("nms_pre", -1)
        self.min_size = cfg.get("min_bbox_size", -1)
        self.by_level = by_level
        self.suppress = GroupedNMS(
            cfg.get("nms"),
            max_num=cfg.get("max_per_img", -1) if max_num is None else max_num,
            owner=f"{owner}.test_cfg",
        )

    def forward(self, maps: tuple[Tensor, ...], size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Feature maps of one image of ``size`` → boxes (N, 4), scores (N,) and labels (N,)."""
        logits, deltas = self.head(maps)
        priors = self.head.prior_generator.grid_priors(
            [tuple(level.shape[-2:]) for level in logits], device=logits[0].device
        )
        levels = [self._best(*level) for level in zip(logits, deltas, priors, strict=True)]
        groups = [torch.full_like(labels, i) for i, (*_, labels) in enumerate(levels)]
        deltas, priors, scores, labels = (torch.cat(parts) for parts in zip(*levels, strict=True))
        boxes = self.decode(priors, deltas, size)

        keep = scores > self.score_threshold
        if self.min_size >= 0:
            keep = keep & (boxes[:, 2:] - boxes[:, :2] > self.min_size).all(dim=1)
        keep = keep.nonzero()[:, 0]
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        groups = torch.cat(groups)[keep] if self.by_level else labels
        keep = self.suppress(boxes, scores, groups)
        return boxes[keep], scores[keep], labels[keep]

    def _best(
        self, logits: Tensor, deltas: Tensor, priors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The boxes of a level with the highest scores.

        Args:
            logits: (1, A · classes, H, W).
            deltas: (1, A · 4, H, W).
            priors: (H · W · A, 4).

        Returns:
            Deltas (n, 4), priors (n, 4), scores (n,) and labels (n,), the best first.
        """
        classes = self.head.cls_out_channels
        logits = logits[0].permute(1, 2, 0).flatten()
        # By the logits: the sigmoid of the best is all that is needed.
        count = logits.shape[0]
        best, index = logits.topk(torch.sym_min(self.nms_pre, count) if self.nms_pre > 0 else count)
        anchors = index // classes
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
        return deltas[anchors], priors[anchors], best.sigmoid(), index % classes
