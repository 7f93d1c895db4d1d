"""HalfResNet and HalfResNeXt: shapes, options, BatchNorm, and equality with the dense libraries."""

import copy
import pickle

import pytest
import torch
import torchvision
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from halvit_mm.backbones import HalfResNet, HalfResNeXt
from halvit_mm.layers import DenseStage, TiedResNetStage, TiedResNeXtStage

SMALL = dict(base_channels=8)
FAMILIES = {"resnet": HalfResNet, "resnext": HalfResNeXt}


def small(family: str = "resnet", **options) -> HalfResNet:
    """Depth 50 and an eighth of the width."""
    groups = dict(groups=4, base_width=16) if family == "resnext" else {}
    return FAMILIES[family](**(dict(depth=50, **SMALL, **groups) | options))


def excite_norms(model: nn.Module) -> None:
    """Gives every norm a scale, an offset and statistics of its own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("height", "width", "sides"),
    [
        (224, 224, [(56, 56), (28, 28), (14, 14), (7, 7)]),
        (225, 225, [(57, 57), (29, 29), (15, 15), (8, 8)]),
        (192, 192, [(48, 48), (24, 24), (12, 12), (6, 6)]),
        (32, 32, [(8, 8), (4, 4), (2, 2), (1, 1)]),
        (800, 1333, [(200, 334), (100, 167), (50, 84), (25, 42)]),
    ],
)
def test_shapes(family, height, width, sides):
    with torch.device("meta"):
        maps = FAMILIES[family]()(torch.empty(2, 3, height, width))
    expected = [(2, 256 * 2**i, *side) for i, side in enumerate(sides)]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("design", ["resnet", "resnext"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [32, 45, 64])
def test_runs_in_training_and_evaluation(family, design, side):
    model = small(family, stage_design=design)
    for training in (True, False):
        maps = model.train(training)(torch.randn(2, 3, side, side))
        assert [m.shape[1] for m in maps] == [32, 64, 128, 256]
        assert all(m.isfinite().all() for m in maps)


@pytest.mark.parametrize("design", ["resnet", "resnext"])
@pytest.mark.parametrize("tied", [(), (1,), (4,), (2, 3), (3, 4), (1, 2, 3, 4)])
def test_tied_stages_select_the_stages(tied, design):
    model = small(tied_stages=tied, stage_design=design)
    stage = {"resnet": TiedResNetStage, "resnext": TiedResNeXtStage}[design]
    for number in range(1, 5):
        layer = getattr(model, f"layer{number}")
        assert type(layer) is (stage if number in tied else DenseStage)
    assert model(torch.randn(1, 3, 64, 64))[-1].shape == (1, 256, 2, 2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", dict(depth=50)),
        ("resnet101", dict(depth=101)),
        ("resnet152", dict(depth=152)),
        ("resnext50_32x4d", dict(depth=50, groups=32, base_width=4)),
        ("resnext101_32x8d", dict(depth=101, groups=32, base_width=8)),
    ],
)
def test_dense_twin_is_torchvisions(name, options):
    """Same names and shapes; the same output where it is cheap to compute."""
    with torch.device("meta"):
        reference = getattr(torchvision.models, name)()
        twin = HalfResNet(tied_stages=(), **options)
    del reference.fc
    assert {k: v.shape for k, v in twin.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    if options["depth"] != 50:
        return
    reference = getattr(torchvision.models, name)().eval()
    reference.fc = nn.Identity()
    excite_norms(reference)
    twin = HalfResNet(tied_stages=(), **options).eval()
    twin.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(twin(x)[-1].mean((2, 3)), reference(x))


@pytest.mark.parametrize(
    "options",
    [
        dict(style="caffe"),
        dict(deep_stem=True, avg_down=True),
        dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
        dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(1, 2)),
        dict(norm_cfg=dict(type="GN", num_groups=2)),
    ],
)
def test_dense_twin_is_mmdets(options):
    from mmdet.models import ResNet

    reference = ResNet(depth=50, base_channels=8, **options)
    reference.eval()
    excite_norms(reference)
    twin = small(tied_stages=(), **options).eval()
    renamed = {k.replace("gn", "bn"): v for k, v in reference.state_dict().items()}
    twin.load_state_dict(renamed)
    x = torch.randn(2, 3, 65, 64)
    with torch.no_grad():
        for own, theirs in zip(twin(x), reference(x), strict=True):
            torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("design", ["resnet", "resnext"])
def test_dilated_last_stage_keeps_the_resolution(design):
    model = small(stage_design=design, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    maps = model(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 4]
    assert all(block.conv2.dilation == (2, 2) for block in model.layer4.blocks)
    assert all(block.conv2.dilation == (1, 1) for block in model.layer3.blocks)


def test_stems():
    x = torch.randn(2, 3, 32, 32)
    assert small(cifar_stem=True)(x)[0].shape[-2:] == (32, 32)
    assert small(deep_stem=True)(x)[0].shape[-2:] == (8, 8)
    assert small(in_channels=4)(torch.randn(2, 4, 32, 32))[0].shape[-2:] == (8, 8)


def test_stages_after_the_last_output_are_not_run():
    model = small(out_indices=(1,))
    model.layer3 = model.layer4 = nn.Identity()
    (only,) = model(torch.randn(1, 3, 32, 32))
    assert only.shape == (1, 64, 4, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_owner_per_weight(family):
    model = small(family)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == len(list(model.parameters()))
    pointers = [p.untyped_storage().data_ptr() for p in model.parameters()]
    assert len(pointers) == len(set(pointers))
    assert [n for n in names if n.endswith(".weight") and n.count(".") == 1 and "layer" in n] == [
        "layer3.weight",
        "layer4.weight",
    ]
    clone = pickle.loads(pickle.dumps(copy.deepcopy(model))).eval()
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(clone(x)[-1], model.eval()(x)[-1], rtol=0, atol=0)


@pytest.mark.parametrize("frozen_stages", range(-1, 5))
@pytest.mark.parametrize("deep_stem", [False, True])
def test_frozen_stages_keep_weights_and_statistics(frozen_stages, deep_stem):
    """Over a training step, frozen parts stay as they are, the rest moves."""
    model = small(frozen_stages=frozen_stages, deep_stem=deep_stem).train()
    before = copy.deepcopy(model.state_dict())
    scale = nn.Parameter(torch.ones(()))  # something to learn if all is frozen
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1)
    (scale * model(torch.randn(2, 3, 64, 64))[-1].square().mean()).backward()
    optimizer.step()
    names = ["stem", "layer1", "layer2", "layer3", "layer4"]
    for name, value in model.state_dict().items():
        part = name.split(".")[0]
        place = names.index(part) if part in names else 0  # conv1 and bn1 are the stem
        if place <= frozen_stages:
            assert torch.equal(value, before[name]), name
        elif name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert not torch.equal(value, before[name]), name
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (frozen_stages >= 0)


def test_norm_eval_keeps_all_statistics_but_trains_the_weights():
    model = small(norm_eval=True).train()
    assert model.training
    before = statistics(model)
    model(torch.randn(2, 3, 64, 64))[-1].square().mean().backward()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert all(p.grad is not None for p in model.parameters())

    # Without it they move.
    moving = small().train()
    before = statistics(moving)
    moving(torch.randn(2, 3, 64, 64))
    assert not any(torch.equal(b, before[n]) for n, b in moving.named_buffers())


def test_norm_eval_survives_a_round_of_evaluation():
    """mmengine switches to evaluation and back after each epoch."""
    model = small(norm_eval=True, frozen_stages=1).train().eval().train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert not model.layer1.training
    assert model.layer2.training


@pytest.mark.parametrize(
    ("norm_cfg", "kind"),
    [
        (dict(type="BN", eps=1e-3), nn.BatchNorm2d),
        (dict(type="SyncBN"), nn.SyncBatchNorm),
        (dict(type="GN", num_groups=4), nn.GroupNorm),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_norms(norm_cfg, kind, family):
    model = small(family, norm_cfg=norm_cfg)
    norms = [m for n, m in model.named_modules() if n.split(".")[-1].startswith("bn")]
    assert len(norms) > 40
    assert all(isinstance(m, kind) for m in norms)
    assert model.eval()(torch.randn(1, 3, 32, 32))[-1].isfinite().all()


def test_norms_that_do_not_learn():
    model = small(norm_cfg=dict(type="BN", requires_grad=False))
    flat = {n: p.requires_grad for n, p in model.named_parameters() if p.ndim == 1}
    assert flat
    assert not any(flat.values())
    assert model.layer3.weight.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_changes_neither_gradients_nor_statistics(family):
    plain = small(family).double()
    saving = small(family, with_cp=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for model in (plain, saving):
        sum(m.square().mean() for m in model(x)).backward()
    grads = dict(plain.named_parameters())
    for name, parameter in saving.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name].grad)
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_initialisation_as_published():
    torch.manual_seed(0)
    weight = HalfResNet().layer4.weight  # (512, 2048): Xavier, 2 / (fan in + fan out)
    assert weight.std().item() == pytest.approx((2 / (512 + 2048)) ** 0.5, rel=0.01)
    model = HalfResNeXt(depth=50)
    for weight in (model.layer4.weight, model.layer4.widen.weight, model.layer1[0].conv1.weight):
        assert weight.std().item() == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=0.02)
    started = small(zero_init_residual=True)
    assert not started.layer4.blocks[1].bn3.weight.any()
    assert not started.layer1[0].bn3.weight.any()
    assert started.layer1[0].bn2.weight.all()


@pytest.mark.parametrize("scope", ["mmdet", "mmpretrain", "mmengine"])
def test_resolves_from_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type="HalfResNeXt", depth=50, **SMALL, groups=2, base_width=32))
    assert type(model) is HalfResNeXt


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(depth=18), "depth=18 is unknown"),
        (dict(stage_design="vit"), "stage_design='vit' is unknown"),
        (dict(style="tf"), "style='tf' is unknown"),
        (dict(num_stages=5), "num_stages=5"),
        (dict(strides=(1, 2)), "one number for each"),
        (dict(dilations=(1, 1)), "one number for each"),
        (dict(tied_stages=(0, 3)), "tied_stages=\\(0, 3\\)"),
        (dict(tied_stages=(5,)), "must name stages"),
        (dict(out_indices=(4,)), "out_indices=\\(4,\\)"),
        (dict(out_indices=()), "out_indices=\\(\\)"),
        (dict(frozen_stages=5), "frozen_stages=5"),
        (dict(deep_stem=True, cifar_stem=True), "exclude each other"),
        (dict(tied_stages=(1,), stem_channels=48), "stage_design='resnext'"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        HalfResNet(**options)


@pytest.mark.parametrize("options", [{}, dict(tied_stages=(1, 2, 3, 4)), dict(avg_down=True)])
@pytest.mark.parametrize("family", FAMILIES)
def test_channels_last_is_kept_throughout(family, options):
    """No part lays its output out anew; results and gradients are those of the usual layout."""
    plain = small(family, **options).double()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    laid_out = {}
    for name, module in last.named_modules():
        module.register_forward_hook(
            lambda module, args, out, name=name: laid_out.update(
                {name: all(m.is_contiguous(memory_format=torch.channels_last) for m in maps(out))}
            )
        )
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for model, images in ((plain, x), (last, x.contiguous(memory_format=torch.channels_last))):
        sum(m.square().mean() for m in model(images)).backward()
    assert len(laid_out) > 100
    assert [name for name, kept in laid_out.items() if not kept] == []
    for own, other in zip(last.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-8, atol=1e-10)


def maps(out: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)
