"""Weight selection: which weights a narrow model gets, and that they are a model's."""

import re

import pytest
import torch
from tiny_runs import classifier_config, make_folders
from torch import nn

from halvit_mm.backbones import HalfResNet, HaLViT
from halvit_mm.checkpoints import read_state_dict
from halvit_mm.errors import UserError
from halvit_mm.halving.selection import indices, select, select_file


def vit(dim: int, *, heads: int = 2, depth: int = 2, seed: int = 0, **options) -> HaLViT:
    torch.manual_seed(seed)
    options = dict(tied=False, img_size=32, patch_size=8, **options)
    model = HaLViT(arch=dict(dim=dim, depth=depth, num_heads=heads), **options).eval()
    for parameter in model.parameters():  # also what starts at zero or one
        nn.init.normal_(parameter, std=0.3)
    return model


def resnet(base_channels: int) -> HalfResNet:
    torch.manual_seed(0)
    options = dict(tied_stages=(), cifar_stem=True, num_stages=2, strides=(1, 2))
    return HalfResNet(
        base_channels=base_channels, dilations=(1, 1), out_indices=(1,), **options
    ).eval()


def zeroed_except(model: nn.Module, kept: torch.Tensor, dim: int) -> None:
    """Sets all but some channels to zero, on every axis of the tokens' width."""
    mask = torch.zeros(dim)
    mask[kept] = 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("qkv.weight", "qkv.bias")):
                rows = parameter.unflatten(0, (3, dim))
                rows *= mask.view(1, dim, *[1] * (rows.ndim - 2))
            for axis, length in enumerate(parameter.shape):
                if length == dim:
                    shape = [1] * parameter.ndim
                    shape[axis] = dim
                    parameter *= mask.view(shape)


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        (6, 3, [0, 2, 4]),
        (6, 2, [0, 3]),
        (5, 5, [0, 1, 2, 3, 4]),
        (7, 4, [0, 2, 4, 6]),
        (10, 4, [0, 3, 6, 9]),
        (8, 3, [0, 4, 7]),  # 3.5 is rounded to even
        (9, 1, [0]),
    ],
)
def test_places_are_evenly_spaced(wide, narrow, expected):
    assert indices(wide, narrow).tolist() == expected


@pytest.mark.parametrize("heads", [1, 2, 3, 5])
def test_every_head_gives_as_many_channels(heads):
    """What makes a rule for heads unnecessary."""
    for wide in range(1, 40):
        for narrow in range(1, wide + 1):
            chosen = indices(heads * wide, heads * narrow)
            assert len(set(chosen.tolist())) == heads * narrow
            assert torch.bincount(chosen // wide).tolist() == [narrow] * heads


def test_values_by_hand():
    table = torch.arange(24.0).view(6, 4)
    assert select({"fc.weight": table}, {"fc.weight": torch.empty(3, 2)})["fc.weight"].tolist() == [
        [0, 2],
        [8, 10],
        [16, 18],
    ]
    rows = torch.arange(9.0)  # 0–2 are of q, 3–5 of k, 6–8 of v
    assert select({"a.qkv.bias": rows}, {"a.qkv.bias": torch.empty(6)})["a.qkv.bias"].tolist() == [
        0, 2, 3, 5, 6, 8,
    ]  # fmt: skip
    head = torch.arange(12.0).view(3, 4)
    assert select({"head.fc.weight": head}, {"head.fc.weight": torch.empty(3, 2)})[
        "head.fc.weight"
    ].tolist() == [[0, 2], [4, 6], [8, 10]]
    conv = torch.arange(16.0).view(4, 4, 1, 1).expand(4, 4, 3, 3)
    got = select({"b.conv2.weight": conv}, {"b.conv2.weight": torch.empty(2, 2, 3, 3)})
    assert got["b.conv2.weight"][:, :, 1, 2].tolist() == [[0, 2], [8, 10]]


def test_equal_width_is_the_model_itself():
    model = vit(24)
    selected = select(model.state_dict(), vit(24, seed=1).state_dict())
    assert selected.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(selected[name], value), name
        assert selected[name].data_ptr() != value.data_ptr()


def test_first_layers_of_a_deeper_model():
    deep = vit(24, depth=4)
    short = vit(24, depth=2, seed=1)
    short.load_state_dict(select(deep.state_dict(), short.state_dict()))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = deep.forward_features(x, (1,))[1][1].hidden
        expected = deep.norm(tokens)[:, 0]
    torch.testing.assert_close(short(x)[0], expected)


@pytest.mark.parametrize(("wide", "narrow"), [(24, 12), (24, 18), (30, 22)])
def test_a_narrow_model_within_a_wide_one(wide, narrow):
    """Where only the selected channels are in use, each projection computes the same."""
    model = vit(wide, layer_scale=0.5)
    kept = indices(wide, narrow)
    zeroed_except(model, kept, wide)
    hidden = indices(4 * wide, 4 * narrow)
    small = vit(narrow, seed=1, layer_scale=0.5)
    small.load_state_dict(select(model.state_dict(), small.state_dict()))
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        tokens, _ = model._embed(x)
        few, _ = small._embed(x)
        torch.testing.assert_close(few, tokens[..., kept])
        block, less = model.blocks[0], small.blocks[0]
        # Not the block as a whole: LayerNorms over other widths cannot agree.
        for ours, theirs in zip(
            less.attn.project_in(few), block.attn.project_in(tokens), strict=True
        ):
            torch.testing.assert_close(ours, theirs[..., kept])
        torch.testing.assert_close(
            less.attn.project_out(few), block.attn.project_out(tokens)[..., kept]
        )
        torch.testing.assert_close(less.ffn.fc1(few), block.ffn.fc1(tokens)[..., hidden])
        inner = torch.zeros(*tokens.shape[:2], 4 * wide)
        inner[..., hidden] = torch.randn(*tokens.shape[:2], 4 * narrow)
        torch.testing.assert_close(
            less.ffn.fc2(inner[..., hidden]), block.ffn.fc2(inner)[..., kept]
        )
    for name in ("norm1.weight", "norm2.bias", "scale1.gamma"):
        assert torch.equal(less.get_parameter(name), block.get_parameter(name)[kept])


def test_a_narrow_resnet_within_a_wide_one():
    """Channels by themselves: BatchNorm and convolutions do not see the unused ones."""
    model, small = resnet(16), resnet(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 4 and name != "conv1.weight":
                mask = torch.zeros(parameter.shape[1])
                mask[indices(parameter.shape[1], parameter.shape[1] // 2)] = 1
                parameter *= mask.view(1, -1, 1, 1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    small.load_state_dict(select(model.state_dict(), small.state_dict()))
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        wide = model(x)[0]
        torch.testing.assert_close(small(x)[0], wide[:, ::2])


def test_positions_of_another_grid_are_resampled():
    wide, narrow = vit(24), vit(12, seed=1)
    wide.pos_embed.data[:] = torch.arange(24.0)  # the same everywhere: any resampling keeps it
    wide.pos_embed.data[:, 0] = -torch.arange(24.0)
    small = HaLViT(
        arch=dict(dim=12, depth=2, num_heads=2), tied=False, img_size=48, patch_size=8
    ).state_dict()
    selected = select(wide.state_dict(), small)
    assert selected["pos_embed"].shape == (1, 1 + 36, 12)
    torch.testing.assert_close(
        selected["pos_embed"][0, 1:], torch.arange(0, 24.0, 2).expand(36, 12)
    )
    torch.testing.assert_close(selected["pos_embed"][0, 0], -torch.arange(0, 24.0, 2))
    assert select(wide.state_dict(), narrow.state_dict())["pos_embed"].shape == (1, 17, 12)


@pytest.mark.parametrize(
    ("wide", "narrow", "message"),
    [
        (dict(dim=12), dict(dim=24), "which is wider; weights are selected from a wider model"),
        (dict(dim=24, depth=1), dict(dim=12), "the wide model lacks blocks.1.norm1.weight, "),
        (dict(dim=24, layer_scale=1.0), dict(dim=12), "no blocks.0.scale1.gamma, .* and 1 more"),
        (dict(dim=24, in_channels=4), dict(dim=12), "keeps the images' channels"),
        (
            dict(dim=24, with_cls_token=False, rel_pos=True),
            dict(dim=12, with_cls_token=False, rel_pos=True, window_size=2),
            "the tables are of different maps",
        ),
    ],
)
def test_what_does_not_fit_is_refused(wide, narrow, message):
    with pytest.raises(UserError, match=message):
        select(vit(**wide).state_dict(), vit(**narrow).state_dict())


def test_classes_and_kernels_are_kept():
    with pytest.raises(UserError, match="keeps the classes"):
        select({"head.fc.weight": torch.ones(4, 4)}, {"head.fc.weight": torch.ones(2, 4)})
    with pytest.raises(UserError, match="keeps kernels and patches"):
        select({"conv1.weight": torch.ones(4, 3, 7, 7)}, {"conv1.weight": torch.ones(2, 3, 3, 3)})
    with pytest.raises(UserError, match="models of the same class"):
        select({"fc.weight": torch.ones(4)}, {"fc.weight": torch.ones(4, 4)})
    with pytest.raises(UserError, match="only square images allow"):
        select({"pos_embed": torch.ones(1, 6, 4)}, {"pos_embed": torch.ones(1, 12, 4)})


def test_a_tied_model_is_no_source():
    tied = HaLViT(arch=dict(dim=24, depth=1, num_heads=2), img_size=32, patch_size=8)
    with pytest.raises(UserError, match=re.escape("dense model of the same class (tied=False")):
        select(tied.state_dict(), vit(12, depth=1).state_dict())


def test_nan_is_refused():
    wide = vit(24)
    wide.blocks[1].ffn.fc1.bias.data[0] = float("nan")
    with pytest.raises(UserError, match=r"blocks\.1\.ffn\.fc1\.bias holds NaN"):
        select(wide.state_dict(), vit(12).state_dict())


@pytest.fixture
def configs(tmp_path):
    """Configs of a wide and of a narrow dense classifier, and a checkpoint of the former."""
    import mmpretrain.models  # noqa: F401
    from mmengine.config import Config
    from mmengine.registry import MODELS

    folder = make_folders(tmp_path / "data")
    paths = []
    for name, dim in (("wide", 64), ("narrow", 32)):
        path = classifier_config(tmp_path / f"{name}.py", folder, dim=dim)
        text = path.read_text().replace("img_size=32", "img_size=32, tied=False")
        path.write_text(text.replace(f"num_heads={dim // 16}", "num_heads=2"))
        paths.append(path)
    cfg = Config.fromfile(paths[0])
    model = MODELS.build({"_scope_": "mmpretrain", **cfg.model})
    torch.save({"state_dict": model.state_dict()}, tmp_path / "wide.pth")
    return (*paths, tmp_path / "wide.pth")


def test_the_file_loads_strictly(configs, tmp_path):
    from mmengine.config import Config
    from mmengine.registry import MODELS

    _, narrow, wide = configs
    weights = select_file(wide, tmp_path / "out.pth", narrow)
    model = MODELS.build({"_scope_": "mmpretrain", **Config.fromfile(narrow).model})
    model.load_state_dict(read_state_dict(tmp_path / "out.pth"), strict=True)
    head = read_state_dict(wide)["head.fc.weight"]
    assert torch.equal(model.head.fc.weight, head[:, ::2])
    assert torch.equal(weights["head.fc.weight"], head[:, ::2])


def test_nothing_is_written_where_something_is_wrong(configs, tmp_path):
    wide, narrow, checkpoint = configs
    select_file(checkpoint, tmp_path / "narrow.pth", narrow)
    with pytest.raises(UserError, match=r"narrow\.pth for .*wide\.py: .* which is wider"):
        select_file(tmp_path / "narrow.pth", tmp_path / "x.pth", wide)
    assert not (tmp_path / "x.pth").exists()
    with pytest.raises(UserError, match="exists already"):
        select_file(checkpoint, tmp_path / "narrow.pth", narrow)
    with pytest.raises(UserError, match="no such checkpoint"):
        select_file(tmp_path / "absent.pth", tmp_path / "x.pth", narrow)
    with pytest.raises(UserError, match="no such config"):
        select_file(checkpoint, tmp_path / "x.pth", tmp_path / "absent.py")
