"""Folding of BatchNorms: equality in fp64, what is folded where, and what is refused."""

import copy

import pytest
import torch
import torchvision
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from halvit_mm.backbones import HalfResNet, HalfResNeXt
from halvit_mm.errors import UserError
from halvit_mm.layers import fold_batch_norms
from halvit_mm.layers.folding import ChannelAffine, FoldedNorm

SMALL = dict(depth=50, base_channels=8)
# W is square in the last two, as in the published HalfResNeXt.
MODELS = {
    "resnet": lambda: HalfResNet(**SMALL),
    "all stages": lambda: HalfResNet(**SMALL, tied_stages=(1, 2, 3, 4)),
    "deep stem": lambda: HalfResNet(**SMALL, deep_stem=True, avg_down=True),
    "cifar stem": lambda: HalfResNet(**SMALL, cifar_stem=True),
    "dense twin": lambda: HalfResNet(**SMALL, tied_stages=()),
    "SyncBN": lambda: HalfResNet(**SMALL, norm_cfg=dict(type="SyncBN")),
    "resnext": lambda: HalfResNeXt(**SMALL, groups=8, base_width=32),
    "resnext avg": lambda: HalfResNeXt(**SMALL, groups=8, base_width=32, avg_down=True),
}
PEERS = {
    "resnet18": torchvision.models.resnet18,
    "resnext50": torchvision.models.resnext50_32x4d,
}


def evaluated(make) -> nn.Module:
    """In fp64 and evaluation mode; every norm has weights, signs and statistics of its own."""
    generator = torch.Generator().manual_seed(0)
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.weight, -1.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.3, 2.0),
            ):
                nn.init.uniform_(tensor, low, high, generator=generator)
    return model


def images(side: int = 64) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).double()


def norms(model: nn.Module) -> list[str]:
    kinds = nn.modules.batchnorm._BatchNorm
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


@torch.no_grad()
def deviation(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Largest deviation of any output, relative to its largest value."""
    outs = [(out,) if isinstance(out, Tensor) else out for out in (model(x), other(x))]
    pairs = zip(*outs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("name", [*MODELS, *PEERS])
def test_folding_changes_rounding_only(name):
    model = evaluated((MODELS | PEERS)[name])
    folded = fold_batch_norms(copy.deepcopy(model))
    assert norms(model)
    assert not norms(folded)
    assert deviation(folded, model, images()) < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_shared_weights_stay_as_they_are_and_single(name):
    model = evaluated(MODELS[name])
    folded = fold_batch_norms(copy.deepcopy(model))
    for stage in range(1, 5):
        weight = getattr(getattr(model, f"layer{stage}"), "weight", None)
        if weight is not None:
            assert torch.equal(getattr(folded, f"layer{stage}").weight, weight)
    owned = [p.untyped_storage().data_ptr() for p in folded.parameters()]
    assert len(owned) == len(set(owned))
    # Norms go, and their convolutions get biases: nothing grows.
    count = sum(p.numel() for p in (*folded.parameters(), *folded.buffers()))
    assert count < sum(p.numel() for p in (*model.parameters(), *model.buffers()))


def test_only_norms_beside_shared_weights_stay_affine():
    folded = fold_batch_norms(evaluated(MODELS["resnet"]))
    affine = {name for name, module in folded.named_modules() if type(module) is ChannelAffine}
    assert affine == {
        f"layer{stage}.blocks.{block}.{norm}"
        for stage, depth in ((3, 6), (4, 3))
        for block in range(depth)
        for norm in ("bn1", "bn3")
    }
    # Both of the two norms in a row are in the depthwise convolution of the shortcut.
    assert [type(layer) for layer in folded.layer4.shortcut] == [nn.Conv2d, FoldedNorm, FoldedNorm]
    assert folded.layer4.shortcut[0].bias is not None


def test_the_input_of_a_pre_norm_block_is_not_overwritten():
    folded = fold_batch_norms(evaluated(MODELS["resnext"]))
    block = folded.layer4.blocks[1]
    x = torch.randn(1, 256, 4, 4).double()
    before = x.clone()
    block.bn0(x)
    assert torch.equal(x, before)
    assert block.bn3.inplace


def test_single_precision_is_rounded_once():
    model = evaluated(MODELS["resnet"]).float()
    folded = fold_batch_norms(copy.deepcopy(model))
    assert {tensor.dtype for tensor in folded.state_dict().values()} == {torch.float32}
    assert deviation(folded, model, images().float()) < 1e-4
    conv, norm = model.layer3.blocks[0].conv2, model.layer3.blocks[0].bn2
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    exact = conv.weight.double() * scale[:, None, None, None]
    error = (folded.layer3.blocks[0].conv2.weight - exact).abs() / exact.abs()
    assert error.max() <= 2**-24


@pytest.mark.parametrize("name", ["resnet", "resnext"])
def test_together_with_mmcvs_folding(name):
    """mmdet's tools offer mmcv's; it may come before or after."""
    model = evaluated(MODELS[name])
    before = fold_batch_norms(fuse_conv_bn(copy.deepcopy(model)).eval())
    after = fuse_conv_bn(fold_batch_norms(copy.deepcopy(model)))
    assert deviation(before, model, images()) < 1e-12
    assert deviation(after, model, images()) < 1e-12


def test_folding_twice_changes_nothing():
    folded = fold_batch_norms(evaluated(MODELS["resnet"]))
    again = fold_batch_norms(copy.deepcopy(folded))
    assert deviation(again, folded, images()) == 0


def test_other_norms_are_left_alone():
    model = HalfResNet(**SMALL, norm_cfg=dict(type="GN", num_groups=4)).eval()
    names = set(model.state_dict())
    assert set(fold_batch_norms(model).state_dict()) == names


def test_sequences():
    first, bare = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)
    model = nn.Sequential(
        nn.BatchNorm2d(3),  # in front of a convolution: its padding forbids it
        *(first, bare, nn.ReLU()),
        *(nn.Conv2d(4, 5, 1), nn.ReLU(), nn.BatchNorm2d(5)),  # not right behind it
        *(nn.ConvTranspose2d(5, 5, 2), nn.BatchNorm2d(5)),
        *(nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5, track_running_stats=False)),
    )
    model = model.double().eval()
    nn.init.uniform_(bare.running_mean)
    nn.init.uniform_(bare.running_var, 0.5, 2)
    folded = fold_batch_norms(copy.deepcopy(model))
    assert norms(folded) == ["0", "6", "8", "10"]
    assert deviation(folded, model, images(8)) < 1e-12


def test_a_convolution_with_several_uses_takes_in_no_norm():
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.BatchNorm2d(3), nn.Sequential(conv, nn.BatchNorm2d(3))).eval()
    weight = conv.weight.clone()
    assert len(norms(fold_batch_norms(model))) == 2
    assert torch.equal(conv.weight, weight)


def test_training_is_refused():
    with pytest.raises(UserError, match=r"call model\.eval\(\) first"):
        fold_batch_norms(HalfResNet(**SMALL))
    model = HalfResNet(**SMALL, norm_eval=True)
    model.layer4.blocks[2].bn3.train()
    names = set(model.state_dict())
    with pytest.raises(UserError, match="evaluation mode only"):
        fold_batch_norms(model)
    assert set(model.state_dict()) == names

    folded = fold_batch_norms(model.eval())
    assert folded.eval() is folded
    with pytest.raises(UserError, match="folded cannot be trained"):
        folded.train()
    # Also where folded parts are frozen, and within a larger model.
    with pytest.raises(UserError, match="folded cannot be trained"):
        nn.ModuleDict(dict(backbone=folded)).train()


def test_state_dicts():
    model = evaluated(MODELS["resnet"])
    folded = fold_batch_norms(copy.deepcopy(model))
    other = fold_batch_norms(HalfResNet(**SMALL).double().eval())
    other.load_state_dict(folded.state_dict())
    assert deviation(other, model, images()) < 1e-12
    with pytest.raises(UserError, match="'bn1', which this model has folded: load the checkpoint"):
        folded.load_state_dict(model.state_dict(), strict=False)
    with pytest.raises(UserError, match=r"'layer3\.blocks\.0\.bn1'"):
        parts = {k: v for k, v in model.state_dict().items() if k.startswith("layer3.blocks.0.bn1")}
        folded.load_state_dict(parts, strict=False)


@pytest.mark.parametrize("name", ["resnet", "deep stem"])
def test_a_folded_state_dict_is_refused_by_a_model_that_is_not(name, tmp_path):
    """mmengine loads what fits and goes on: all weights of the convolutions would."""
    model = evaluated(MODELS[name])
    torch.save(fold_batch_norms(copy.deepcopy(model)).state_dict(), tmp_path / "folded.pth")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="were folded for inference: load the checkpoint from"):
        load_checkpoint(model, str(tmp_path / "folded.pth"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_layout_in_memory_is_kept():
    model = evaluated(MODELS["resnet"]).to(memory_format=torch.channels_last)
    folded = fold_batch_norms(model)
    assert folded.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    out = folded(images().contiguous(memory_format=torch.channels_last))[-1]
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_gradients_reach_the_image():
    model = evaluated(MODELS["resnext"])
    folded = fold_batch_norms(copy.deepcopy(model))
    gradients = []
    for each in (model, folded):
        x = images().requires_grad_()
        each(x)[-1].square().mean().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_a_whole_detector():
    from mmdet.registry import MODELS as DETECTORS
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    model = DETECTORS.build(
        dict(
            type="RetinaNet",
            backbone=dict(type="HalfResNet", **SMALL, out_indices=(1, 2, 3)),
            neck=dict(type="FPN", in_channels=[64, 128, 256], out_channels=16, num_outs=3),
            bbox_head=dict(
                type="RetinaHead",
                num_classes=3,
                in_channels=16,
                feat_channels=16,
                stacked_convs=1,
                anchor_generator=dict(
                    type="AnchorGenerator",
                    octave_base_scale=4,
                    scales_per_octave=1,
                    ratios=[1.0],
                    strides=[8, 16, 32],
                ),
                bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
            ),
            train_cfg=dict(),
            test_cfg=dict(),
        )
    )
    model = evaluated(lambda: model)
    folded = fold_batch_norms(copy.deepcopy(model))
    assert not norms(folded)
    with torch.no_grad():
        for own, theirs in zip(folded.forward(images()), model.forward(images()), strict=True):
            torch.testing.assert_close(own, theirs, rtol=1e-9, atol=1e-9)
