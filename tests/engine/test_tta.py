"""Merging a detector's predictions on an image and its mirror image."""

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from halvit_mm.engine import InstanceTTAModel

HEIGHT, WIDTH = 12, 20


class Detector(nn.Module):
    def test_step(self, data):
        raise NotImplementedError


def view(boxes, scores, labels, direction=None, *, masks=True):
    """A prediction in the coordinates of the mirrored image."""
    from mmdet.structures import DetDataSample

    boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
    instances = InstanceData(
        bboxes=boxes, scores=torch.tensor(scores), labels=torch.tensor(labels, dtype=torch.long)
    )
    if masks:
        instances.masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(instances.masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
    meta = dict(ori_shape=(HEIGHT, WIDTH), flip=direction is not None, flip_direction=direction)
    return DetDataSample(metainfo=meta, pred_instances=instances)


def merge(*views, **options) -> InstanceData:
    model = InstanceTTAModel(module=Detector(), **options)
    (sample,) = model.merge_preds([list(views)])
    return sample.pred_instances


@pytest.mark.parametrize(
    ("direction", "mirrored"),
    [
        ("horizontal", [12, 1, 18, 5]),
        ("vertical", [2, 7, 8, 11]),
        ("diagonal", [12, 7, 18, 11]),
    ],
)
def test_a_mirrored_instance_falls_on_its_original(direction, mirrored):
    found = merge(view([2, 1, 8, 5], [0.6], [1]), view(mirrored, [0.9], [1], direction))
    assert found.scores.tolist() == pytest.approx([0.9])  # the better of the two
    assert found.bboxes.tolist() == [[2, 1, 8, 5]]
    mask = found.masks[0]
    assert mask[1:5, 2:8].all() and mask.sum() == 24


def test_each_instance_keeps_its_own_mask():
    plain = view([[0, 0, 4, 4], [10, 2, 16, 9]], [0.5, 0.4], [0, 1])
    other = view([[1, 5, 6, 10], [16, 0, 20, 4]], [0.8, 0.3], [0, 0], "horizontal")
    found = merge(plain, other)
    assert found.scores.tolist() == pytest.approx([0.8, 0.5, 0.4])
    assert found.labels.tolist() == [0, 0, 1]
    for mask, (x1, y1, x2, y2) in zip(found.masks, found.bboxes.int().tolist(), strict=True):
        assert mask[y1:y2, x1:x2].all() and mask.sum() == (y2 - y1) * (x2 - x1)


def test_only_the_best_are_kept():
    boxes = [[0, 0, 4, 4], [6, 0, 10, 4], [12, 0, 16, 4]]
    found = merge(view(boxes, [0.2, 0.9, 0.5], [0, 0, 0]), max_per_img=2)
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])


def test_an_image_without_instances():
    found = merge(view([], [], []), view([], [], [], "horizontal"))
    assert len(found) == 0 and found.masks.shape == (0, HEIGHT, WIDTH)


def test_boxes_alone_as_mmdet_merges_them():
    from mmdet.models import DetTTAModel
    from mmengine.config import ConfigDict

    generator = torch.Generator().manual_seed(0)

    def random_views():
        generator.manual_seed(0)
        for direction in (None, "horizontal"):
            corner = torch.rand(30, 2, generator=generator) * 8
            size = torch.rand(30, 2, generator=generator) * 4 + 1
            boxes = torch.cat((corner, corner + size), dim=1).tolist()
            scores = torch.rand(30, generator=generator).tolist()
            labels = torch.randint(2, (30,), generator=generator).tolist()
            yield view(boxes, scores, labels, direction, masks=False)

    tta_cfg = ConfigDict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
    theirs = DetTTAModel(tta_cfg=tta_cfg, module=Detector())
    expected = theirs.merge_preds([list(random_views())])[0].pred_instances
    found = merge(*random_views())
    assert torch.equal(found.bboxes, expected.bboxes[:, :4])
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.labels, expected.labels)
