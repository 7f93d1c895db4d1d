"""RoI heads in graphs: proposals become detections, and detections get masks."""

import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn
from torchvision.ops import roi_align

from ..errors import UserError
from ..layers.sizes import Size
from .boxes import DeltaDecoder, GroupedNMS


class RoIFeatures(nn.Module):
    """mmdet's ``SingleRoIExtractor``: each box is pooled from the level that fits its size.

    Args:
        extractor: The extractor; its levels, sizes and scales are read.
        owner: The name of the extractor in its detector, for messages.

    Raises:
        UserError: It is of another type or pools otherwise.
    """

    def __init__(self, extractor: nn.Module, *, owner: str) -> None:
        super().__init__()
        from mmcv.ops import RoIAlign
        from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

        if type(extractor) is not SingleRoIExtractor or not all(
            type(layer) is RoIAlign and layer.pool_mode == "avg" for layer in extractor.roi_layers
        ):
            raise UserError(
                f"{owner} {type(extractor).__name__} cannot be exported; supported is "
                "SingleRoIExtractor with roi_layer=dict(type='RoIAlign', pool_mode='avg')"
            )
        self.extractor = extractor

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """Feature maps of one image and boxes (N, 4) in its pixels → (N, C, h, w)."""
        rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), dim=1)  # all of image 0
        layers = self.extractor.roi_layers
        maps = maps[: len(layers)]
        levels = self.extractor.map_roi_levels(rois, len(layers))
        features = maps[0].new_zeros(rois.shape[0], maps[0].shape[1], *layers[0].output_size)
        for level, (layer, feature_map) in enumerate(zip(layers, maps, strict=True)):
            chosen = (levels == level).nonzero()[:, 0]
            pooled = roi_align(
                feature_map,
                rois[chosen],
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            features = features.index_copy(0, chosen, pooled)
        return features


class BoxHead(nn.Module):
    """The box branch of mmdet's ``StandardRoIHead``.

    Args:
        head: ``bbox_head`` of the RoI head; it is used, not copied.
        extractor: ``bbox_roi_extractor`` of the RoI head.
        cfg: ``test_cfg`` of the RoI head.
        score_threshold: Least score of a detection; None: as in ``cfg``.
        max_num: The most detections of an image; None: as in ``cfg``.

    Raises:
        UserError: A part does what this module does not.
    """

    def __init__(
        self,
        head: nn.Module,
        extractor: nn.Module,
        cfg: ConfigDict,
        *,
        score_threshold: float | None = None,
        max_num: int | None = None,
    ) -> None:
        super().__init__()
        if not (head.with_cls and head.with_reg) or head.custom_cls_channels:
            raise UserError(
                f"roi_head.bbox_head {type(head).__name__} cannot be exported as it is set; "
                "supported are heads with with_cls, with_reg and an ordinary loss_cls"
            )
        self.head = head
        self.features = RoIFeatures(extractor, owner="roi_head.bbox_roi_extractor")
        self.decode = DeltaDecoder(head.bbox_coder)
        self.score_threshold = cfg.score_thr if score_threshold is None else score_threshold
        self.suppress = GroupedNMS(
            cfg.nms,
            max_num=cfg.max_per_img if max_num is None else max_num,
            owner="roi_head.test_cfg",
        )

    def forward(
        self, maps: tuple[Tensor, ...], proposals: Tensor, size: Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of one image of ``size``, proposals (P, 4) → boxes (N, 4), scores, labels (N,)."""
        logits, deltas = self.head(self.features(maps, proposals))
        scores = logits.softmax(dim=-1)[:, :-1]  # the last class is the background
        chosen = (scores > self.score_threshold).nonzero()
        rois, labels = chosen[:, 0], chosen[:, 1]
        scores = scores[rois, labels]
        if self.head.reg_class_agnostic:
            deltas = deltas[rois]
        else:
            deltas = deltas.unflatten(1, (-1, 4))[rois, labels]
        boxes = self.decode(proposals[rois], deltas, size)
        keep = self.suppress(boxes, scores, labels)
        return boxes[keep], scores[keep], labels[keep]


class MaskHead(nn.Module):
    """The mask branch of mmdet's ``StandardRoIHead``.

    Args:
        head: ``mask_head`` of the RoI head; it is used, not copied.
        extractor: ``mask_roi_extractor`` of the RoI head.

    Raises:
        UserError: The extractor does what this module does not.
    """

    def __init__(self, head: nn.Module, extractor: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.features = RoIFeatures(extractor, owner="roi_head.mask_roi_extractor")

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Feature maps of one image, boxes (N, 4), labels (N,) → probabilities (N, m, m)."""
        logits = self.head(self.features(maps, boxes))
        if self.head.class_agnostic:
            return logits[:, 0].sigmoid()
        of_label = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        return logits.gather(1, of_label)[:, 0].sigmoid()
