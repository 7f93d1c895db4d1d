"""Whole detectors in onnxruntime: one graph finds in every image what PyTorch finds."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from PIL import Image
from small_detectors import as_input, build, mmdet_predict, photograph, small_config
from torch import nn

from halvit_mm.deploy.agreement import compare_detections
from halvit_mm.deploy.detectors import ExportableDetector
from halvit_mm.deploy.export import make_graph
from halvit_mm.deploy.graph import keep_weights_single

pytestmark = pytest.mark.xdist_group("onnx detectors")  # its exports are made once

#: Every map of an image of this size is larger than a window.
TRACED = (224, 288)
#: Larger and smaller than that, upright and lying; the last ones leave a map of a single cell.
SIZES = [(224, 288), (300, 230), (160, 256), (97, 133), (64, 64), (40, 33), (1, 1)]
CASES = [
    ("mask_rcnn", "halvit"),
    *(
        pytest.param(case, marks=pytest.mark.full)
        for case in [
            ("retinanet", "half_resnet50"),
            ("mask_rcnn", "half_resnet50"),
            ("mask_rcnn", "mini_deit"),
            ("mask_rcnn", "mini_swin"),
            ("retinanet", "halvit"),
            ("retinanet", "mini_deit"),
            ("retinanet", "mini_swin"),
        ]
    ),
]


class Exported:
    """A detector, as it is and in onnxruntime."""

    def __init__(self, model: nn.Module, file: Path) -> None:
        self.model = model
        self.detector = ExportableDetector(model)
        self.graph = make_graph(self.detector, TRACED, any_size=True, any_batch=False)
        keep_weights_single(self.graph)
        ir.save(self.graph, file)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, {"image": as_input(image).numpy()})

    def assert_agrees(self, image: np.ndarray) -> int:
        """Compares with mmdet itself; returns the number of detections."""
        found = mmdet_predict(self.model, image)
        expected = tuple(found[key].numpy() for key in ("bboxes", "scores", "labels"))
        got = self.run(image)
        limits = dict(score_threshold=0.3, max_per_image=80 if len(got) == 3 else 40)
        agreement = compare_detections(expected, tuple(got[:3]), **limits)
        assert agreement.agrees, agreement.differences
        if len(got) == 4:
            with torch.no_grad():
                masks = self.detector(as_input(image))[3].numpy()
            i, j = agreement.pairs.T
            np.testing.assert_allclose(got[3][j], masks[i], rtol=0, atol=2e-3)
        return len(got[1])


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def exported(request, tmp_path_factory) -> Exported:
    detector, backbone = request.param
    # On small images the RPN of this Mask R-CNN proposes nothing.
    changes = dict(test_cfg=dict(rpn=dict(min_bbox_size=9))) if detector == "mask_rcnn" else {}
    model = build(small_config(detector, backbone, **changes))
    return Exported(model, tmp_path_factory.mktemp("onnx") / "detector.onnx")


def sizes(exported: Exported) -> list[tuple[int, int]]:
    if type(exported.model.backbone).__name__ != "MiniSwin":
        return SIZES
    # Windows that are larger than the map are cut to it in PyTorch, and cannot be in a graph.
    return [size for size in SIZES if min(size) > 96]


def test_images_of_all_sizes(exported):
    counts = [
        exported.assert_agrees(photograph(*size, seed=i)) for i, size in enumerate(sizes(exported))
    ]
    assert counts[0] >= 10


def test_nothing_to_find(exported):
    """No proposal, no detection, no mask: the operators get nothing, and give it."""
    if not hasattr(exported.model, "roi_head"):
        pytest.skip("RetinaNet has no proposals")
    outputs = exported.run(photograph(9, 9))
    assert [out.shape for out in outputs] == [(0, 4), (0,), (0,), (0, 28, 28)]


def test_photographs(exported, test_data):
    untrained = type(exported.model.backbone).__name__ == "HalfResNet"
    if untrained and hasattr(exported.model, "roi_head"):
        pytest.skip("an untrained ResNet enlarges rounding errors until other proposals win")
    for file in sorted((test_data / "coco_by" / "val").iterdir())[:4]:
        with Image.open(file) as image:
            half = np.asarray(image.convert("RGB").reduce(2))
        assert exported.assert_agrees(half) >= 1


def test_form(exported):
    """Names and types of inputs and outputs, and ONNX's own operators for boxes."""
    (image,) = exported.session.get_inputs()
    assert (image.name, image.type) == ("image", "tensor(float)")
    assert image.shape[:2] == [1, 3]
    assert all(isinstance(side, str) for side in image.shape[2:])
    outputs = {output.name: output.type for output in exported.session.get_outputs()}
    assert tuple(outputs) == exported.detector.output_names
    assert outputs["labels"] == "tensor(int64)"
    operators = Counter(node.op_type for node in exported.graph.graph)
    two_stages = "masks" in outputs
    assert operators["NonMaxSuppression"] == (2 if two_stages else 1)
    assert operators["RoiAlign"] == (8 if two_stages else 0)
    assert {node.domain for node in exported.graph.graph} == {""}


@pytest.mark.full
def test_retinanet_finds_nothing(tmp_path):
    """Above every score no box is left for the suppression."""
    model = build(small_config("retinanet", "halvit", test_cfg=dict(score_thr=0.9999)))
    outputs = Exported(model, tmp_path / "detector.onnx").run(photograph(97, 133))
    assert [out.shape for out in outputs] == [(0, 4), (0,), (0,)]
