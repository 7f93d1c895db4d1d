"""Dense ResNets and ResNeXts into half-weight ones: symmetries, alignment, start, pairing."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from halvit_mm.backbones import HalfResNet
from halvit_mm.errors import UserError
from halvit_mm.halving import resnet_symmetries as symmetries
from halvit_mm.halving.resnets import pair_resnet

GROUPED = dict(groups=4, base_width=32)
SMALL = dict(base_channels=8, cifar_stem=True)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def excite(model: nn.Module) -> nn.Module:
    """Gives every norm a scale, an offset and statistics of its own; evaluation mode, float64."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.5)
            # Small enough for eps to weigh.
            nn.init.uniform_(module.running_var, 1e-4, 0.5)
    return model.double().eval()


def model(tied=(), **options) -> HalfResNet:
    return excite(HalfResNet(tied_stages=tied, **(SMALL | options)))


def signs(size: int) -> torch.Tensor:
    return torch.randint(2, (size,)).double() * 2 - 1


def factors(size: int) -> torch.Tensor:
    return torch.rand(size, dtype=torch.double) * 3 + 0.1


def order_within(conv: nn.Conv2d) -> torch.Tensor:
    size = conv.out_channels // conv.groups
    return torch.cat([torch.randperm(size) + g * size for g in range(conv.groups)])


#: Each symmetry with random arguments; the last two change scales.
EXACT_IN_TRAINING = {
    "permute_read": lambda b: symmetries.permute_read(b, order_within(b.conv2)),
    "permute_written": lambda b: symmetries.permute_written(b, order_within(b.conv2)),
    "permute_groups": lambda b: symmetries.permute_groups(b, torch.randperm(b.conv2.groups)),
    "sign_first": lambda b: symmetries.scale_first(b, signs(b.conv1.out_channels)),
    "sign_last": lambda b: symmetries.scale_last(b, signs(b.conv3.out_channels)),
    "scale_inner": lambda b: symmetries.scale_inner(b, factors(b.conv3.in_channels)),
}
SYMMETRIES = EXACT_IN_TRAINING | {
    "scale_first": lambda b: symmetries.scale_first(
        b, signs(b.conv1.out_channels) * factors(b.conv1.out_channels)
    ),
    "scale_last": lambda b: symmetries.scale_last(
        b, signs(b.conv3.out_channels) * factors(b.conv3.out_channels)
    ),
}


def scramble(block: Bottleneck) -> None:
    for change in SYMMETRIES.values():
        change(block)


@pytest.mark.parametrize("groups", [{}, GROUPED], ids=["plain", "grouped"])
@pytest.mark.parametrize("name", SYMMETRIES)
def test_a_symmetry_leaves_outputs_as_they_are(name, groups):
    dense = model(**groups)
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        expected = dense(images)
        before = copy.deepcopy(dense.state_dict())
        for stage in dense.stages:
            for block in getattr(dense, stage):
                SYMMETRIES[name](block)
        found = dense(images)
    # With one group there is nothing to reorder.
    assert (name == "permute_groups" and not groups) or any(
        not torch.equal(before[k], v) for k, v in dense.state_dict().items()
    )
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()


@pytest.mark.parametrize("groups", [{}, GROUPED], ids=["plain", "grouped"])
@pytest.mark.parametrize("name", EXACT_IN_TRAINING)
def test_a_symmetry_is_exact_in_training_mode(name, groups):
    block = model(**groups).layer2[1].train()
    x = torch.randn(4, 64, 6, 6, dtype=torch.double)
    expected = copy.deepcopy(block)(x)
    EXACT_IN_TRAINING[name](block)
    assert (block(x) - expected).abs().max() < 1e-10


def test_symmetries_refuse_what_is_none():
    block = model(**GROUPED).layer1[1]
    with pytest.raises(ValueError, match="out of their groups"):
        symmetries.permute_read(block, torch.arange(16).flip(0))
    with pytest.raises(ValueError, match="out of their groups"):
        symmetries.permute_written(block, torch.arange(16).flip(0))
    with pytest.raises(ValueError, match="positive"):
        symmetries.scale_inner(block, -torch.ones(16, dtype=torch.double))


def tie(stage: nn.Sequential, *, first: bool) -> torch.Tensor:
    """Lets all blocks have one W, from the second on or from the first; then scrambles each."""
    width, out = stage[1].conv1.weight.shape[:2]
    weight = torch.randn(width, out, 1, 1, dtype=torch.double) * 0.1
    with torch.no_grad():
        for i, block in enumerate(stage):
            if i or first:
                block.conv1.weight.copy_(weight)
            block.conv3.weight.copy_(weight.transpose(0, 1))
            scramble(block)
    return weight


@pytest.mark.parametrize("groups", [{}, GROUPED], ids=["plain", "grouped"])
def test_aligned_start_finds_a_tied_weight_again(groups):
    half, dense = model((2, 4), **groups), model(**groups)
    for stage in (dense.layer2, dense.layer4):
        tie(stage, first=False)
    pairing = pair_resnet(half, dense, (32, 32))
    for unit in pairing.units:
        unit.start(align=True)
        assert block_errors(unit)[1:] == pytest.approx([0] * (len(unit.dense) - 1), abs=1e-8)
        unit.start(align=False)
        assert min(block_errors(unit)[1:]) > 0.1


def block_errors(unit) -> list[float]:
    """The largest difference of each block's output from the dense one's, on the same input."""
    weight = unit.half.weight
    errors = []
    with torch.no_grad():
        for i, (block, dense) in enumerate(zip(unit.half.blocks, unit.dense, strict=True)):
            x = torch.rand(2, weight.shape[1], 6, 6, dtype=torch.double)
            if i == 0 and dense.conv1.in_channels != x.shape[1]:
                errors.append(float("nan"))
                continue
            found = block(x, weight, weight.transpose(0, 1), x)
            errors.append((found - dense(x)).abs().max().item())
    return errors


def test_a_stage_without_an_entry_is_exact_as_a_whole():
    options = dict(stem_channels=32)
    half, dense = model((1,), **options), model(**options)
    tie(dense.layer1, first=True)
    pairing = pair_resnet(half, dense, (32, 32))
    pairing.units[0].start(align=True)
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        for a, b in zip(half(images), dense(images), strict=True):
            assert (a - b).abs().max() <= 1e-8 * b.abs().max()


def test_resnext_shortcut_is_exact_and_blocks_are_where_the_relu_is_open():
    """Where the inner ReLU passes everything, its linear approximation is exact, but at borders."""
    options = dict(GROUPED, stage_design="resnext")
    half, dense = model((2, 3), **options), model(**options)
    tie(dense.layer3, first=False)
    with torch.no_grad():
        for block in dense.layer3:
            block.bn1.running_var.fill_(0.5)
            block.bn1.bias.fill_(100)
    unit = pair_resnet(half, dense, (32, 32)).units[1]
    unit.start(align=True)
    x = torch.rand(2, 64, 12, 12, dtype=torch.double)
    with torch.no_grad():
        assert torch.equal(unit.half.enter(x)[1], unit.dense[0].downsample(x))
        weight = unit.half.weight
        for block, original in zip(list(unit.half.blocks)[1:], list(unit.dense)[1:], strict=True):
            y = torch.rand(2, 128, 8, 8, dtype=torch.double)
            found = block(y, weight, weight.transpose(0, 1), y)[..., 1:-1, 1:-1]
            assert (found - original(y)[..., 1:-1, 1:-1]).abs().max() < 1e-8
        # Block 0 reads the input through widen; its norm in front of W is lifted clear of the ReLU.
        unit.half.blocks[0].bn0.bias.add_(100)
        constant = weight.flatten(1).sum(dim=1) * 100
        conv = unit.half.blocks[0].conv2
        passed = nn.functional.conv2d(
            constant[None, :, None, None],
            conv.weight.sum(dim=(2, 3), keepdim=True),
            groups=conv.groups,
        )
        unit.half.blocks[0].bn2.running_mean.add_(passed.flatten())
        found = unit.run_half(x)[0][..., 1:-1, 1:-1]
        assert (found - unit.run_dense(x)[0][..., 1:-1, 1:-1]).abs().max() < 1e-8


@pytest.mark.parametrize("design", ["resnet", "resnext"])
@pytest.mark.parametrize(
    "options",
    [
        dict(tied=(3, 4)),
        dict(tied=(2, 3), cifar_stem=False, deep_stem=True, avg_down=True),
        dict(tied=(1, 4), **GROUPED, style="caffe", cifar_stem=False),
        dict(tied=(1, 2, 3, 4), strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4)),
        dict(tied=(1,), stem_channels=32, strides=(2, 2, 2, 2)),
    ],
    ids=["usual", "deep", "caffe", "dilated", "same_width"],
)
@pytest.mark.parametrize("align", [False, True])
def test_units_run_like_the_models(design, options, align):
    options = dict(options)
    tied = options.pop("tied")
    half, dense = model(tied, stage_design=design, **options), model(**options)
    untouched = copy.deepcopy(dense.state_dict())
    images = torch.randn(2, 3, 45, 64, dtype=torch.double)
    pairing = pair_resnet(half, dense, (45, 64))
    with torch.no_grad():
        a, b = pairing.enter_half(images), pairing.enter_dense(images)
        for unit, number in zip(pairing.units, tied, strict=True):
            assert unit.name == f"stage {number}"
            unit.start(align=align)
            found, expected = unit.run_half(a), unit.run_dense(b)
            assert [m.shape for m in found] == [unit.compared(m).shape for m in expected]
            assert all(m.isfinite().all() for m in found)
            a, b = found[-1], expected[-1]
        for features, x, backbone in (
            (pairing.leave_half, a, half),
            (pairing.leave_dense, b, dense),
        ):
            expected = backbone(images)[-1].mean(dim=(2, 3))
            assert torch.allclose(features(x), expected, rtol=1e-10, atol=1e-10)
    for name, value in dense.state_dict().items():
        assert torch.equal(value, untouched[name])
        if not name.startswith(tuple(f"layer{n}." for n in tied)):
            assert torch.equal(half.state_dict()[name], value)


@pytest.mark.parametrize("design", ["resnet", "resnext"])
def test_reconstruction_lowers_the_error(design):
    half = HalfResNet(tied_stages=(3,), stage_design=design, **SMALL).eval()
    dense = HalfResNet(tied_stages=(), **SMALL).eval()
    unit = pair_resnet(half, dense, (32, 32)).units[0]
    unit.start(align=True)
    x = torch.rand(4, 8, 32, 32)  # what the stem returns
    with torch.no_grad():
        expected = unit.run_dense(x)
    optimizer = torch.optim.Adam(unit.half.parameters(), lr=3e-3)
    errors = []
    unit.half.train()
    for _ in range(12):
        error = sum(
            (a - b).square().mean() / b.var()
            for a, b in zip(unit.run_half(x), expected, strict=True)
        )
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    ("half", "dense", "message"),
    [
        (dict(tied_stages=()), {}, "no half-weight stage"),
        ({}, dict(tied_stages=(4,)), "dense twin"),
        ({}, dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1)), "of 4 stages"),
        ({}, dict(depth=101), "layer3 of the half-weight ResNet has 6 blocks, of the dense one 23"),
        ({}, dict(base_channels=16), "channels"),
        ({}, dict(base_width=128), "inner channels"),
        ({}, dict(strides=(1, 2, 1, 2)), "layer3 .* as stride"),
        ({}, dict(cifar_stem=False), "conv1.weight"),
        (dict(norm_cfg=dict(type="GN", num_groups=4)),) * 2 + ("BatchNorm",),
    ],
)
def test_what_cannot_be_paired_is_refused(half, dense, message):
    half = HalfResNet(**(SMALL | dict(tied_stages=(3, 4), out_indices=(0,)) | half))
    dense = HalfResNet(**(SMALL | dict(tied_stages=(), out_indices=(0,)) | dense))
    with pytest.raises(UserError, match=message):
        pair_resnet(half, dense, (32, 32))
