"""DDP waits for the gradient of every trained parameter, so that each must have one in each step.

``find_unused_parameters=False``, the default, is quicker and refuses a step in which one has none.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from scale_out import BACKBONES, WaveTask
from torch import distributed

from halvit_mm.engine.config_errors import load_config

SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory) -> Iterator[None]:
    """A group of one process, in which DDP waits as it does among many."""
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    distributed.init_process_group("gloo", f"file://{meeting}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def check(model: torch.nn.Module, batches: list[Any]) -> None:
    """Two steps and more; DDP tells of one without a gradient when the next one begins."""
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapper = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    assert not wrapper.find_unused_parameters
    optim = OptimWrapper(torch.optim.SGD(trained, lr=1e-4))
    for batch in batches:
        for parameter in trained:
            parameter.grad = None
        with optim.optim_context(wrapper):
            data = model.data_preprocessor(deepcopy(batch), training=True)
            losses = wrapper(**data, mode="loss")
        loss, _ = model.parse_losses(losses)
        loss.backward()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


#: Layers or stages whose output can be asked for, and how many of those can be frozen.
SIZES = {
    "HaLViT": (2, 2),
    "MiniDeiT": (4, 2),
    "MiniSwin": (4, 4),
    "HalfResNet": (4, 4),
    "HalfResNeXt": (4, 4),
}
OPTIONS = [
    (family, options)
    for family, (outputs, freezable) in SIZES.items()
    for options in (
        *({"out_indices": (i,)} for i in range(outputs)),
        {"out_indices": tuple(range(outputs))},
        {"out_indices": (0, outputs - 1), "with_cp": True},
        *({"frozen_stages": i} for i in range(freezable)),
        *([] if "ResNe" in family else [{"drop_path_rate": 0.9}]),
        *({"out_type": t} for t in ("raw", "avg_featmap") if family in ("HaLViT", "MiniDeiT")),
    )
]


@pytest.mark.parametrize(("family", "options"), OPTIONS, ids=lambda value: str(value))
def test_every_trained_parameter_has_a_gradient(family, options):
    torch.manual_seed(0)
    model = WaveTask(backbone={**BACKBONES[family], **options}).train()
    check(model, [dict(inputs=torch.randn(2, 3, SIDE, SIDE)) for _ in range(2)])


@pytest.mark.parametrize("share", [2, 4])
@pytest.mark.parametrize("last", range(4))
def test_steps_of_a_shared_block_that_no_output_needs(share, last):
    model = WaveTask(backbone={**BACKBONES["MiniDeiT"], "share": share, "out_indices": (last,)})
    check(model, [dict(inputs=torch.randn(2, 3, SIDE, SIDE)) for _ in range(2)])
    trained = {n for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert f"blocks.{last // share}.norm1.{last % share}.weight" in trained
    assert f"blocks.{last // share}.norm1.{last % share + 1}.weight" not in trained


def test_the_check_sees_what_gets_no_gradient():
    model = WaveTask(backbone={**BACKBONES["HaLViT"], "out_indices": (0,)})
    model.backbone.blocks[1].requires_grad_(True)
    with pytest.raises(AssertionError, match=r"blocks\.1"):
        check(model, [dict(inputs=torch.randn(2, 3, SIDE, SIDE))])


DETECTORS = [
    f"{detector}_{backbone}_1x_coco"
    for detector in ("mask_rcnn", "retinanet")
    for backbone in ("halvit", "half_resnet50", "mini_deit", "mini_swin")
]


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_with_and_without_objects(root, name):
    """An image without objects takes other ways through the heads than one with some."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    cfg = load_config(root / f"configs/{name}.py")
    _shrink(cfg.model)

    def batch(objects: int) -> dict:
        boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [20.0, 20.0, 60.0, 60.0]])[:objects]
        masks = np.zeros((objects, 64, 64), dtype=np.uint8)
        masks[:, 20:40, 20:40] = 1
        found = InstanceData(
            bboxes=boxes,
            labels=torch.arange(objects),
            masks=BitmapMasks(masks, 64, 64),
        )
        sample = DetDataSample(
            gt_instances=found,
            metainfo=dict(img_shape=(64, 64), batch_input_shape=(64, 64), pad_shape=(64, 64)),
        )
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
        return dict(inputs=[image], data_samples=[sample])

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model).train()
        check(model, [batch(2), batch(0), batch(1)])


def _shrink(model: dict) -> None:
    backbone = model.backbone
    backbone.init_cfg = None
    if "roi_head" in model:
        model.roi_head.bbox_head.fc_out_channels = 16
        model.train_cfg.rpn_proposal.max_per_img = 50
    if "arch" in backbone and backbone.type != "MiniSwin":
        backbone.update(arch=dict(dim=24, depth=12, num_heads=3))
        model.neck.in_channels = 24
    elif backbone.type == "MiniSwin":
        backbone.arch = dict(dim=12, depths=(2, 2, 6, 2), num_heads=(1, 1, 1, 1))
        model.neck.in_channels = [12 * 2**i for i in backbone.get("out_indices", range(4))]
    else:
        backbone.base_channels = 8
        model.neck.in_channels = [32, 64, 128, 256]
