"""Mini-DeiT and Mini-Swin from dense transformers: groups of layers become blocks."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from halvit_mm.backbones import MiniDeiT, MiniSwin
from halvit_mm.errors import UserError
from halvit_mm.halving.mini_deit import pair_mini_deit
from halvit_mm.halving.mini_swin import pair_mini_swin
from halvit_mm.halving.units import Pairing

DEIT = dict(arch=dict(dim=24, depth=4, num_heads=3), img_size=48, patch_size=8)
SWIN = dict(arch=dict(dim=12, depths=(2, 4), num_heads=(2, 3)), window_size=3)
#: Mini-Swin's transforms that can do nothing, and no mask which its dense twin has not.
NO_LOCAL = dict(transforms=("norm", "mix_logits", "mix_weights"), mask_all_steps=False)
#: Not square; Mini-Swin's maps of it need padding, shifts, and patch merging of an odd side.
SIZE = (60, 44)


def exact(model: nn.Module, seed: int = 0) -> nn.Module:
    """In 64 bits, with random values everywhere."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.double().eval().parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = 0.3 * values
    for norm in model.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.weight.data += 1
    return model


def deits(dense: dict | None = None, **options) -> tuple[MiniDeiT, MiniDeiT]:
    """Half and dense, of unrelated random weights."""
    return (
        exact(MiniDeiT(**{**DEIT, **options}), seed=1),
        exact(MiniDeiT(**{**DEIT, **MiniDeiT.dense_twin, **(dense or {})}), seed=2),
    )


def swins(dense: dict | None = None, **options) -> tuple[MiniSwin, MiniSwin]:
    return (
        exact(MiniSwin(**{**SWIN, **options}), seed=1),
        exact(MiniSwin(**{**SWIN, **MiniSwin.dense_twin, **(dense or {})}), seed=2),
    )


def images(size: tuple[int, int] = SIZE, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64)


@torch.no_grad()
def make_equal(pairing: Pairing, *, norms: bool) -> None:
    """Gives the dense layers of each unit the same weights; LayerNorms only if asked for."""
    for unit in pairing.units:
        first, *others = unit.dense
        for layer in others:
            for name, parameter in layer.named_parameters():
                if norms or not name.startswith("norm"):
                    parameter.copy_(first.get_parameter(name))


@torch.no_grad()
def make_tied(pairing: Pairing, parts: tuple[str, ...]) -> None:
    """Gives the dense layers weights that a tied layer can have."""
    for layer in (layer for unit in pairing.units for layer in unit.dense):
        if "ffn" in parts:
            layer.ffn.fc2.weight.copy_(layer.ffn.fc1.weight.t())
        if "attn" in parts:
            w_q, w_k, w_v = layer.attn.qkv.weight.chunk(3)
            w_v.copy_(w_k.t())
            layer.attn.proj.weight.copy_(w_q.t())


@torch.no_grad()
def disguise(block: nn.Module, seed: int) -> None:
    """Changes what a dense block leaves free: hidden units, heads, axes within heads, norms."""
    generator = torch.Generator().manual_seed(seed)

    def shuffle(length: int) -> Tensor:
        return torch.randperm(length, generator=generator)

    ffn, attn = block.ffn, block.attn
    order = shuffle(len(ffn.fc1.bias))
    ffn.fc1.weight.copy_(ffn.fc1.weight[order])
    ffn.fc1.bias.copy_(ffn.fc1.bias[order])
    ffn.fc2.weight.copy_(ffn.fc2.weight[:, order])

    heads, width = attn.num_heads, attn.dim // attn.num_heads
    order = shuffle(heads)
    qkv = attn.qkv.weight.clone().view(3, heads, width, -1)[:, order]
    bias = attn.qkv.bias.clone().view(3, heads, width)[:, order]
    proj = attn.proj.weight.clone().view(-1, heads, width)[:, order]
    of_logits, of_values = (
        torch.linalg.qr(torch.randn(heads, width, width, generator=generator, dtype=torch.float64))[
            0
        ]
        for _ in range(2)
    )
    turns = torch.stack((of_logits, of_logits, of_values))
    attn.qkv.weight.copy_((turns @ qkv).flatten(0, 2))
    attn.qkv.bias.copy_((turns @ bias[..., None]).flatten())
    attn.proj.weight.copy_(torch.einsum("dhj,hij->dhi", proj, of_values).flatten(1))
    if block.rel_pos is not None:
        block.rel_pos.table.copy_(block.rel_pos.table[:, order])

    for (norm,), reader in ((block.norm1, attn.qkv), (block.norm2, ffn.fc1)):
        scale = 0.5 + torch.rand(attn.dim, generator=generator, dtype=torch.float64)
        norm.weight *= scale
        norm.bias *= scale
        reader.weight /= scale


@torch.no_grad()
def errors(pairing: Pairing) -> list[float]:
    """Largest error after each layer of both chains, relative to the dense output's size."""
    x_half, x_dense = pairing.enter_half(images()), pairing.enter_dense(images())
    found = []
    for unit in pairing.units:
        outs_half, outs_dense = unit.run_half(x_half), unit.run_dense(x_dense)
        for ours, theirs in zip(outs_half, map(unit.compared, outs_dense), strict=True):
            assert ours.shape == theirs.shape
            found.append(float((ours - theirs).abs().max() / theirs.std()))
        x_half, x_dense = outs_half[-1], outs_dense[-1]
    left = pairing.leave_half(x_half) - pairing.leave_dense(x_dense)
    return [*found, float(left.abs().max())]


def start(pairing: Pairing, *, align: bool) -> None:
    for unit in pairing.units:
        unit.start(align=align)


# Equal layers


@pytest.mark.parametrize("align", [False, True], ids=["average", "aligned"])
@pytest.mark.parametrize("share", [2, 4])
@pytest.mark.parametrize(
    "transforms",
    [True, False, ("norm",), ("rel_pos",), ("norm", "mix_weights"), ("mix_logits", "rel_pos")],
    ids=str,
)
def test_equal_layers_of_deit_halve_without_error(transforms, share, align):
    """Their LayerNorms may differ where each step has its own."""
    half, dense = deits(share=share, transforms=transforms)
    pairing = pair_mini_deit(half, dense, SIZE)
    assert len(pairing.units) == 4 // share
    own_norms = transforms is True or (transforms and "norm" in transforms)
    make_equal(pairing, norms=not own_norms)
    assert max(errors(pairing)) > 0.1
    start(pairing, align=align)
    assert max(errors(pairing)) < 1e-10


@pytest.mark.parametrize("align", [False, True], ids=["average", "aligned"])
@pytest.mark.parametrize("share", [2, (2, 4)], ids=str)
def test_equal_layers_of_swin_halve_without_error(share, align):
    half, dense = swins(share=share, **NO_LOCAL)
    pairing = pair_mini_swin(half, dense, SIZE)
    assert len(pairing.units) == (3 if share == 2 else 2)
    make_equal(pairing, norms=False)
    assert max(errors(pairing)) > 0.1
    start(pairing, align=align)
    assert max(errors(pairing)) < 1e-10


@pytest.mark.parametrize("align", [False, True], ids=["average", "aligned"])
@pytest.mark.parametrize("tied", [("ffn",), ("attn",), ("attn", "ffn")], ids="+".join)
@pytest.mark.parametrize("family", ["deit", "swin"])
def test_equal_layers_that_are_tied_halve_without_error(family, tied, align):
    if family == "deit":
        pairing = pair_mini_deit(*deits(tied=tied), SIZE)
    else:
        pairing = pair_mini_swin(*swins(tied=tied, **NO_LOCAL), SIZE)
    make_equal(pairing, norms=False)
    make_tied(pairing, tied)
    start(pairing, align=align)
    assert max(errors(pairing)) < 1e-10


@pytest.mark.parametrize("family", ["deit", "swin"])
def test_equal_layers_are_found_behind_symmetries(family):
    """Shuffled hidden units and heads, turned axes, scaled norms: averages mix what differs."""

    def disguised() -> Pairing:
        if family == "deit":
            pairing = pair_mini_deit(*deits(), SIZE)
        else:
            pairing = pair_mini_swin(*swins(share=(2, 4), **NO_LOCAL), SIZE)
        make_equal(pairing, norms=False)
        x = pairing.enter_dense(images())
        for unit in pairing.units:
            before = unit.run_dense(x)
            for seed, layer in enumerate(unit.dense):
                disguise(layer, seed)
            after = unit.run_dense(x)
            torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
            x = after[-1]
        return pairing

    pairing = disguised()
    start(pairing, align=False)
    assert max(errors(pairing)) > 0.1
    pairing = disguised()
    start(pairing, align=True)
    assert max(errors(pairing)) < 1e-8


def test_masks_of_layers_that_do_not_shift_are_the_half_models_own():
    half, dense = swins(**{**NO_LOCAL, "mask_all_steps": True})
    pairing = pair_mini_swin(half, dense, SIZE)
    make_equal(pairing, norms=False)
    start(pairing, align=False)
    assert errors(pairing)[0] > 1e-2


@pytest.mark.parametrize("transforms", [("norm",), False], ids=str)
def test_norms_are_copied_or_averaged(transforms):
    half, dense = deits(transforms=transforms)
    pairing = pair_mini_deit(half, dense, SIZE)
    pairing.units[1].start(align=False)
    block, first, second = half.blocks[1], dense.blocks[2], dense.blocks[3]
    for part in ("norm1", "norm2"):
        for name in ("weight", "bias"):
            ours = [norm.get_parameter(name) for norm in getattr(block, part)]
            theirs = [getattr(layer, part)[0].get_parameter(name) for layer in (first, second)]
            expected = theirs if transforms else [(theirs[0] + theirs[1]) / 2]
            torch.testing.assert_close(ours, expected)


def test_windows_of_another_size_have_resampled_tables():
    half, dense = swins(dict(window_size=5), **NO_LOCAL)
    start(pair_mini_swin(half, dense, SIZE), align=False)
    other = MiniSwin(**SWIN, **MiniSwin.dense_twin).double()
    other.load_state_dict(dense.state_dict())
    first, second = (block.rel_pos.table for block in other.stages[1].blocks[2:])
    torch.testing.assert_close(half.stages[1].blocks[1].rel_pos.table, (first + second) / 2)


# Both chains of units are the backbones


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(share=4, tied=True),
        dict(transforms=("norm", "mix_logits"), with_cls_token=True),
        dict(window_size=3, global_blocks=(1,)),
        dict(out_type="avg_featmap", transforms=("norm",), with_cls_token=True),
    ],
    ids=str,
)
def test_deits_units_are_the_backbones(options):
    ends = ("with_cls_token", "out_type", "window_size", "global_blocks")
    half, dense = deits({k: v for k, v in options.items() if k in ends}, **options)
    check_chains(pair_mini_deit(half, dense, SIZE), half, dense)


@pytest.mark.parametrize(
    "options", [dict(), dict(share=(1, 4)), dict(tied=True, mask_all_steps=False)], ids=str
)
def test_swins_units_are_the_backbones(options):
    """With local convolutions, shifted windows, patch merging of odd maps, and different masks."""
    half, dense = swins(**options)
    check_chains(pair_mini_swin(half, dense, SIZE), half, dense)


@torch.no_grad()
def check_chains(pairing: Pairing, half: nn.Module, dense: nn.Module) -> None:
    exact(half, seed=5)  # so that nothing of it is as in the dense model any more
    x, y = pairing.enter_half(images()), pairing.enter_dense(images())
    for unit in pairing.units:
        assert unit.half in half.modules()
        assert set(unit.dense) <= set(dense.modules())
        x, y = unit.run_half(x)[-1], unit.run_dense(y)[-1]
    for backbone, left in ((half, pairing.leave_half(x)), (dense, pairing.leave_dense(y))):
        (out,) = backbone(images())
        expected = out if out.ndim == 2 else out.flatten(2).mean(dim=2)
        torch.testing.assert_close(left, expected, rtol=0, atol=1e-12)


def test_starting_changes_only_the_half_model():
    for pairing, dense in (
        (pair_mini_deit(*(pair := deits()), SIZE), pair[1]),
        (pair_mini_swin(*(pair := swins()), SIZE), pair[1]),
    ):
        before = {name: value.clone() for name, value in dense.state_dict().items()}
        start(pairing, align=True)
        for name, value in dense.state_dict().items():
            assert torch.equal(value, before[name]), name


# What is outside of units


def test_embeddings_are_copied_and_the_class_token_left_out():
    half, dense = deits(dict(with_cls_token=True))
    pairing = pair_mini_deit(half, dense, SIZE)
    torch.testing.assert_close(half.pos_embed, dense.pos_embed[:, 1:])
    ours, theirs = pairing.enter_half(images()), pairing.enter_dense(images())
    torch.testing.assert_close(ours, theirs[:, 1:])
    output = pairing.units[0].run_dense(theirs)[-1]
    torch.testing.assert_close(pairing.units[0].compared(output), output[:, 1:])
    for unit in pairing.units:
        theirs = unit.run_dense(theirs)[-1]
    torch.testing.assert_close(pairing.leave_dense(theirs), dense(images())[0])
    normalised = dense.norm(theirs[:, 1:])  # the half model has a copy of the norm
    torch.testing.assert_close(pairing.leave_half(theirs[:, 1:]), normalised.mean(dim=1))


def test_a_class_token_that_both_have_is_copied():
    options = dict(with_cls_token=True, transforms=("norm",))
    half, dense = deits(dict(with_cls_token=True), **options)
    pairing = pair_mini_deit(half, dense, SIZE)
    ours = pairing.enter_half(images())
    torch.testing.assert_close(ours, pairing.enter_dense(images()))
    assert pairing.units[0].compared(ours).shape == ours.shape


def test_the_position_embedding_is_resampled_to_the_half_models_grid():
    """As it is when a checkpoint of another size is loaded."""
    half, dense = deits(dict(img_size=32, with_cls_token=True))
    pair_mini_deit(half, dense, SIZE)
    other = MiniDeiT(**DEIT).double()
    other.load_state_dict({"pos_embed": dense.pos_embed.detach()}, strict=False)
    torch.testing.assert_close(half.pos_embed, other.pos_embed)


def test_a_backbone_without_last_norm_is_left_without():
    half, dense = deits(final_norm=False)
    pairing = pair_mini_deit(half, dense, SIZE)
    x = pairing.enter_half(images())
    torch.testing.assert_close(pairing.leave_half(x), x.mean(dim=1))


def test_swins_norms_are_copied_where_both_have_them():
    half, dense = swins(dict(out_indices=1), out_indices=(0, 1))
    before = half.norm0.weight.clone()
    pair_mini_swin(half, dense, SIZE)
    assert torch.equal(half.norm1.weight, dense.norm1.weight)
    assert torch.equal(half.norm0.weight, before)


# Local convolutions


def spread(batch: int, length: int, dim: int) -> Tensor:
    """Tokens of different lengths, with two massive channels of nearly constant value."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(batch, length, dim, generator=generator, dtype=torch.float64)
    x *= torch.empty(batch, length, 1, dtype=torch.float64).uniform_(1, 2, generator=generator)
    x[..., 0] += 30
    x[..., 1] -= 20
    return x


def first_unit(**options):
    half, dense = swins(**{"mask_all_steps": False, **options})
    pairing = pair_mini_swin(half, dense, SIZE)
    make_equal(pairing, norms=False)
    start(pairing, align=False)
    return pairing.units[0]


@torch.no_grad()
def unit_error(unit, x: Tensor) -> float:
    """Mean square of the errors over both layers, relative to the dense outputs' variance."""
    of_layers = [
        ((ours - theirs) ** 2).mean() / theirs.var()
        for ours, theirs in zip(unit.run_half(x), unit.run_dense(x), strict=True)
    ]
    return float(sum(of_layers) / len(of_layers))


def test_fitting_brings_local_convolutions_near_to_the_identity():
    unit = first_unit()
    x = spread(2, 15 * 11, 12)
    before = unit_error(unit, x)
    unit.fit([x[:1], x[1:]])
    assert all(not local.conv.weight.any() for local in unit.half.local)
    after = unit_error(unit, x)
    assert after < 0.05 * before, (before, after)


def test_the_fit_is_the_least_squares_one_whatever_the_batches():
    unit = first_unit()
    x = spread(3, 15 * 11, 12)
    unit.fit([x])
    local = unit.half.local[1]
    inputs = []
    handle = local.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    unit.run_half(x)
    handle.remove()
    (tokens,) = (t.flatten(0, 1) for t in inputs)
    n = torch.layer_norm(tokens, (12,), eps=local.norm.eps)
    for channel in range(12):
        design = torch.stack((n[:, channel], torch.ones(len(n))), dim=1)
        slope, offset = torch.linalg.lstsq(design, tokens[:, channel]).solution
        torch.testing.assert_close(local.norm.weight[channel], slope, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(local.norm.bias[channel], offset, rtol=1e-6, atol=1e-8)

    weights = {name: value.clone() for name, value in unit.half.state_dict().items()}
    unit.fit(iter([x[:1], x[1:]]))
    for name, value in unit.half.state_dict().items():
        torch.testing.assert_close(value, weights[name])


def test_there_is_nothing_to_fit_without_local_convolutions():
    unit = pair_mini_deit(*deits(), SIZE).units[0]
    before = {name: value.clone() for name, value in unit.half.state_dict().items()}
    unit.fit(iter([]))
    for name, value in unit.half.state_dict().items():
        assert torch.equal(value, before[name])


# Configs and refusals


@pytest.mark.parametrize("name", ["mini_deit_tiny", "mini_swin_tiny"])
def test_published_models_pair_with_their_dense_twins(name, root):
    def backbone(config: str) -> nn.Module:
        options = Config.fromfile(root / f"configs/imagenet/{config}_imagenet.py")
        torch.manual_seed(0)
        return MODELS.build(options.model.backbone).eval()

    dense = backbone(name.replace("mini", "dense"))
    pair = pair_mini_deit if "deit" in name else pair_mini_swin
    pairing = pair(backbone(name), dense, (64, 48))
    assert len(pairing.units) == (6 if "deit" in name else 4)
    start(pairing, align=False)
    x = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        x_half, x_dense = pairing.enter_half(x), pairing.enter_dense(x)
        for unit in pairing.units:
            unit.fit([x_half])
            x_half, x_dense = unit.run_half(x_half)[-1], unit.run_dense(x_dense)[-1]
            assert unit.compared(x_dense).shape == x_half.shape
    assert pairing.leave_half(x_half).shape == (2, 192 if "deit" in name else 768)
    assert pairing.leave_dense(x_dense).shape == pairing.leave_half(x_half).shape


@pytest.mark.parametrize(
    ("dense", "message"),
    [
        (dict(arch=dict(dim=48, depth=4, num_heads=3)), "width is 48 and the config's is 24"),
        (dict(arch=dict(dim=24, depth=2, num_heads=3)), "number of layers is 2"),
        (dict(arch=dict(dim=24, depth=4, num_heads=4)), "number of heads is 4"),
        (dict(mlp_ratio=2), "hidden width is 48 and the config's is 96"),
        (dict(patch_size=16), "patch size is 16"),
        (dict(in_channels=1), "number of input channels is 1"),
    ],
    ids=str,
)
def test_deits_of_other_shapes_are_refused(dense, message):
    with pytest.raises(UserError, match=message):
        pair_mini_deit(*deits(dense), SIZE)


def test_a_class_token_cannot_be_made_up():
    half, dense = deits(with_cls_token=True, transforms=("norm",))
    with pytest.raises(UserError, match="set with_cls_token=False"):
        pair_mini_deit(half, dense, SIZE)


@pytest.mark.parametrize(
    ("dense", "message"),
    [
        (dict(arch=dict(dim=24, depths=(2, 4), num_heads=(2, 3))), "width is 24"),
        (
            dict(arch=dict(dim=12, depths=(2, 2), num_heads=(2, 3))),
            r"layers of each stage is \[2, 2\]",
        ),
        (
            dict(arch=dict(dim=12, depths=(2, 4), num_heads=(2, 4))),
            r"heads of each stage is \[2, 4\]",
        ),
        (dict(mlp_ratio=2), "hidden width is 24"),
        (dict(patch_size=2), "patch size is 2"),
    ],
    ids=str,
)
def test_swins_of_other_shapes_are_refused(dense, message):
    with pytest.raises(UserError, match=message):
        pair_mini_swin(*swins(dense), SIZE)
