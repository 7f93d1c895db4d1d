"""Converting checkpoints of MiniViT's authors."""

import re
import shlex
import sys
import types
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS
from official_mini_swin import parameters
from small_minivit import StateDict, official, ours, published, same, small_deit, small_swin
from torch import Tensor, nn
from torch.nn import functional as F

from halvit_mm.checkpoints import convert
from halvit_mm.checkpoints.conversion import convert_file, read_source
from halvit_mm.errors import UserError


def classifier(root: Path, config: str, options: dict) -> nn.Module:
    """The classifier of one of the repository's configs, without memory for weights."""
    import mmpretrain.models  # noqa: F401

    cfg = Config.fromfile(root / config)
    cfg.merge_from_dict(options)
    with torch.device("meta"):
        return MODELS.build({"_scope_": "mmpretrain", **cfg.model})


# What is recognised, and where it fits


@pytest.mark.parametrize(
    ("title", "sizes", "config", "total"),
    [
        ("Mini-DeiT-Tiny", {}, "mini_deit_tiny", 3_090_304),
        ("Mini-DeiT-Small", {}, "mini_deit_small", 11_450_824),
        ("Mini-DeiT-Base", {}, "mini_deit_base", 44_098_408),
        ("Mini-DeiT-Base", dict(img_size=384), "mini_deit_base_384", 44_390_248),
        ("Mini-DeiT-Base", dict(share=12), "mini_deit_base_one_block", 8_674_408),
        ("Mini-Swin-Tiny", {}, "mini_swin_tiny", 12_001_765),
        ("Mini-Swin-Small", {}, "mini_swin_small", 26_463_205),
        ("Mini-Swin-Base", {}, "mini_swin_base", 46_444_852),
        ("Mini-Swin-Base", dict(img_size=384, window=12), "mini_swin_base_384", 46_512_532),
    ],
)
def test_published_weights_load_strictly_into_the_configs_model(root, title, sizes, config, total):
    _, family, arch = title.lower().split("-")
    weights = published(family, arch, **sizes)
    conversion = read_source({"model": weights})
    assert conversion.source == f"{title} in MiniViT's names"
    assert conversion.config == f"configs/imagenet/{config}_imagenet.py"
    assert conversion.cfg_options == {} and conversion.fresh == () and conversion.resized == ()
    assert conversion.img_size == sizes.get("img_size", 224)
    model = classifier(root, conversion.config, {})
    model.load_state_dict(conversion.state_dict, assign=True)
    assert sum(p.numel() for p in model.parameters()) == total
    # The very same tensors under new names.
    given = {value.data_ptr() for value in parameters(weights).values()}
    assert {value.data_ptr() for value in conversion.state_dict.values()} == given


@pytest.mark.parametrize("family", ["deit", "swin"])
def test_small_models_come_with_the_options_they_need(root, family):
    conversion = read_source(official(family))
    words = shlex.split(re.search("--cfg-options (.*)", conversion.summary())[1])
    given = Namespace()
    DictAction([], "cfg_options")(None, given, words)
    model = classifier(root, conversion.config, given.cfg_options)
    model.load_state_dict(conversion.state_dict, assign=True)
    backbone = MODELS.build(conversion.backbone)
    assert backbone.state_dict().keys() == model.backbone.state_dict().keys()


@pytest.mark.parametrize("family", ["deit", "swin"])
@pytest.mark.parametrize("wrap", ["state_dict", "model", None])
def test_wrappers_and_prefixes_are_looked_through(family, wrap):
    weights = {f"module.{name}": value for name, value in official(family).items()}
    converted = convert({wrap: weights, "epoch": 3} if wrap else weights)
    assert same(converted, convert(official(family)))


@pytest.mark.parametrize("family", ["deit", "swin"])
def test_a_head_may_be_missing(family):
    conversion = read_source(official(family, num_classes=None))
    assert conversion.fresh == ("head.fc",)
    assert "freshly initialised: head.fc" in conversion.summary()
    assert conversion.state_dict.keys() == {
        name for name in convert(official(family)) if "head" not in name
    }


def test_buffers_are_not_needed_and_then_the_last_map_is_one_window():
    conversion = read_source(parameters(official("swin")))
    assert conversion.img_size == 96
    assert same(conversion.state_dict, convert(official("swin")))
    assert read_source(official("swin", img_size=192)).img_size == 192


# Other sizes


def bicubic(grid: Tensor, side: int) -> Tensor:
    """(h · h, C) → (side · side, C)."""
    old = round(len(grid) ** 0.5)
    maps = grid.T.reshape(1, -1, old, old)
    return F.interpolate(maps, size=(side, side), mode="bicubic").flatten(2)[0].T


@torch.no_grad()
@pytest.mark.parametrize(("old", "new"), [(48, 80), (80, 48)])
def test_position_embeddings_are_resampled(old, new):
    weights = official("deit", img_size=old)
    conversion = read_source(weights, img_size=new)
    assert conversion.resized == ("backbone.pos_embed",)
    assert conversion.img_size == conversion.backbone["img_size"] == new
    assert f"for images of {new} pixels" in conversion.summary()
    assert "resampled to that size: backbone.pos_embed" in conversion.summary()
    found = conversion.state_dict["backbone.pos_embed"]
    torch.testing.assert_close(found[0], bicubic(weights["pos_embed"][0], new // 8))
    # The rest stays, and the model computes what the old one does on images of that size.
    rest = [conversion.state_dict, convert(weights)]
    for part in rest:
        del part["backbone.pos_embed"]
    assert same(*rest)
    x = torch.randn(2, 3, new, new, generator=torch.Generator().manual_seed(0))
    outputs = []
    for source in (read_source(weights), read_source(weights, img_size=new)):
        backbone = MODELS.build(source.backbone).eval()
        named = source.state_dict.items()
        backbone.load_state_dict({k[9:]: v for k, v in named if k.startswith("backbone.")})
        outputs.append(backbone(x)[0])
    torch.testing.assert_close(*outputs)


def test_bias_tables_are_resampled():
    weights = official("swin")
    conversion = read_source(weights, img_size=160, window_size=5)
    tables = [name for name in conversion.state_dict if name.endswith("rel_pos.table")]
    assert len(tables) == 4 and set(conversion.resized) == set(tables)
    assert conversion.backbone["window_size"] == 5 and conversion.img_size == 160
    for i in range(4):
        old = weights[f"layers.{i}.blocks.0.attn.relative_position_bias_table"]
        found = conversion.state_dict[f"backbone.stages.{i}.blocks.0.rel_pos.table"]
        assert found.shape[0] == 81
        torch.testing.assert_close(found, bicubic(old, 9))
    MODELS.build(conversion.backbone).load_state_dict(
        {k[9:]: v for k, v in conversion.state_dict.items() if k.startswith("backbone.")}
    )


@pytest.mark.parametrize(
    ("family", "options"),
    [("deit", dict(img_size=48)), ("swin", dict(img_size=96, window_size=3))],
)
def test_the_same_size_is_exact(family, options):
    weights = official(family)
    conversion = read_source(weights, **options)
    assert conversion.resized == ()
    assert same(conversion.state_dict, convert(weights))


@pytest.mark.parametrize(
    ("family", "options", "config"),
    [
        ("deit", dict(img_size=384), "mini_deit_base_384"),
        ("swin", dict(img_size=384, window_size=12), "mini_swin_base_384"),
    ],
)
def test_published_weights_go_from_224_to_384_pixels(root, family, options, config):
    conversion = read_source(published(family, "base"), **options)
    assert conversion.config == f"configs/imagenet/{config}_imagenet.py"
    assert conversion.cfg_options == {}
    assert len(conversion.resized) == (1 if family == "deit" else 12)
    model = classifier(root, conversion.config, {})
    model.load_state_dict(conversion.state_dict, assign=True)


# What is refused


def drop(name: str) -> Callable[[StateDict], None]:
    return lambda weights: weights.pop(name)


def drop_all(part: str) -> Callable[[StateDict], None]:
    def change(weights: StateDict) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    return change


def narrow(name: str) -> Callable[[StateDict], None]:
    return lambda weights: weights.update({name: weights[name][:1]})


def put(name: str, *shape: int) -> Callable[[StateDict], None]:
    return lambda weights: weights.update({name: torch.ones(shape)})


def take(part: str, other: str) -> Callable[[StateDict], None]:
    donor = official(other)
    return lambda weights: weights.update({k: v for k, v in donor.items() if k.startswith(part)})


BLOCK, LAYER = "blocks.1.block", "layers.2.blocks.0"
CHANGES = [
    ("deit", drop("pos_embed"), "missing pos_embed"),
    ("deit", drop("patch_embed.proj.weight"), r"missing patch_embed\.proj\.weight"),
    ("deit", drop(f"{BLOCK}.attn.proj.bias"), r"missing blocks\.1\.block\.attn\.proj\.bias"),
    ("deit", drop(f"{BLOCK}.norm2.instances.1.bias"), r"missing .*norm2\.instances\.1\.bias"),
    ("deit", drop_all("conv_w"), r"missing blocks\.0\.block\.attn\.conv_w.* and 1 more"),
    ("deit", drop_all("rpe_k"), r"missing blocks\.0\.block\.attn\.rpe_k"),
    ("deit", drop_all("instances.1"), "blocks serve one layer each"),
    ("deit", drop("norm.weight"), r"missing norm\.weight"),
    ("deit", drop("head.weight"), r"missing head\.weight"),
    ("deit", put("cls_token", 1, 1, 24), "unknown cls_token"),
    ("deit", put("head_dist.weight", 10, 24), r"unknown head_dist\.weight"),
    ("deit", put("pos_embed", 1, 37, 24), r"pos_embed has 37 positions.*without class token"),
    ("deit", put("pos_embed", 36, 24), r"pos_embed is \(36, 24\), which has not the 3 axes"),
    ("deit", put("pos_embed", 1, 36, 25), r"heads of 8 channels do not make the width of 25"),
    ("deit", narrow(f"{BLOCK}.attn.qkv.weight"), r"attn\.qkv\.weight is \(1, 24\), not \(72, 24\)"),
    (
        "deit",
        narrow(f"{BLOCK}.attn.conv_l.instances.0.weight"),
        r"conv_l\.instances\.0\.weight is \(1, 3\), not \(3, 3\)",
    ),
    (
        "deit",
        put(f"{BLOCK}.attn.conv_l.instances.0.weight", 3, 3, 3, 3),
        r"conv_l\.instances\.0\.weight is \(3, 3, 3, 3\), not",
    ),
    ("deit", narrow("head.bias"), r"of a wrong width: head\.(weight|bias) is"),
    ("swin", drop("patch_embed.norm.bias"), r"missing patch_embed\.norm\.bias"),
    ("swin", drop(f"{LAYER}.mlp.fc2.weight"), r"missing layers\.2\.blocks\.0\.mlp\.fc2\.weight"),
    ("swin", drop(f"{LAYER}.proj_l.3.bias"), r"missing layers\.2\.blocks\.0\.proj_l\.3\.bias"),
    ("swin", drop_all("local_conv_list"), r"missing layers\.0\.blocks\.0\.local_conv_list\.0"),
    ("swin", drop_all("relative_position_bias_table"), r"missing .*position_bias_table"),
    ("swin", drop("layers.1.downsample.norm.bias"), r"missing layers\.1\.downsample\.norm\.bias"),
    ("swin", drop_all("layers.3"), r"unknown layers\.2\.downsample"),
    ("swin", drop_all("layers.1"), r"missing layers\.1\.blocks\.0\.attn\.relative_position"),
    ("swin", put(f"{LAYER}.extra.weight", 2), r"unknown layers\.2\.blocks\.0\.extra\.weight"),
    ("swin", put("absolute_pos_embed", 1, 576, 8), "unknown absolute_pos_embed"),
    ("swin", narrow(f"{LAYER}.proj_w.0.weight"), r"proj_w\.0\.weight is \(1, 2\), not \(2, 2\)"),
    ("swin", narrow("patch_embed.proj.weight"), r"patch_embed\.norm\.weight is \(8,\), not \(1,\)"),
    ("swin", put("layers.1.blocks.0.attn.relative_position_bias_table", 25, 3), "3 heads do not"),
    ("swin", put(f"{LAYER}.attn.relative_position_bias_table", 24, 2), r"\(24, 2\), not \(25, 2\)"),
    ("swin", put(f"{LAYER}.attn_mask", 4, 9, 9), r"layers\.2\.blocks\.0\.attn_mask is not that"),
    (
        "swin",
        put("layers.3.blocks.0.attn_mask", 1, 9, 9),
        r"layers\.3\.blocks\.0\.attn_mask is not",
    ),
    ("swin", put("layers.0.blocks.0.attn_mask", 81, 9, 9), "attn_mask is not that of"),
    ("swin", put(f"{LAYER}.attn.relative_position_index", 9, 9), "relative_position_index is not"),
    ("deit", take("layers.", "swin"), r"mix families, a Mini-DeiT \(blocks.*a Mini-Swin \(layers"),
    (
        "deit",
        put("blocks.1.attn.qkv.weight", 72, 24),
        r"mix families, a Mini-DeiT \(.*\) and a dense DeiT or ViT \(blocks\.1\.attn\.qkv\.weight",
    ),
    (
        "swin",
        put("layers.1.blocks.0.norm1.weight", 16),
        r"mix families, .* and a dense Swin \(layers\.1\.blocks\.0\.norm1\.weight",
    ),
]


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    CHANGES,
    ids=[f"{family}-{i}" for i, (family, *_) in enumerate(CHANGES)],
)
def test_refused_with_the_sources_names_and_a_cure(family, change, reason):
    weights = official(family)
    change(weights)
    with pytest.raises(UserError, match=reason) as caught:
        convert(weights)
    assert re.search(r"\b(give|download|choose)\b", str(caught.value).lower())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [small_deit, small_swin])
def test_converted_weights_are_known_as_such(make):
    with pytest.raises(UserError, match=r"have this project's names already .*--to-official"):
        convert(ours(make()))


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("deit", dict(img_size=50), "img_size=50 is no multiple of the 8 pixels of a patch"),
        ("deit", dict(img_size=0), "img_size=0 is no multiple"),
        ("deit", dict(window_size=7), "Mini-DeiT has no windows"),
        ("deit", dict(tied_stages=(3, 4)), "tied_stages does not go with Mini-DeiT and Mini-Swin"),
        ("swin", dict(img_size=98), "img_size=98 is no multiple of the 4"),
        ("swin", dict(img_size=160), r"maps of 40, 20, 10, 5 tokens a side.*window_size=3"),
        ("swin", dict(img_size=100, window_size=1), "img_size=100 makes maps"),
        ("swin", dict(window_size=4), "windows of window_size=4 do not divide"),
        ("swin", dict(window_size=0), "window_size=0"),
    ],
)
def test_sizes_that_cannot_be_had(family, options, reason):
    with pytest.raises(UserError, match=reason):
        convert(official(family), **options)


def test_options_of_minivit_are_not_for_resnets():
    with pytest.raises(UserError, match="img_size does not go with ResNets"):
        convert({"layer1.0.conv1.weight": torch.ones(1)}, img_size=384)


# Files


def test_options_of_the_authors_training_are_read_without_their_packages(tmp_path, monkeypatch):
    """DeiT's code keeps its arguments beside the weights, Swin's a dict of package yacs."""
    yacs = types.ModuleType("yacs.config")

    class CfgNode(dict):
        def __init__(self, content: dict) -> None:
            super().__init__(content)
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    yacs.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", yacs)
    content = {
        "model": official("swin"),
        "config": CfgNode({"MODEL": CfgNode({"NAME": "mini-swin"})}),
        "args": Namespace(lr=1e-3),
    }
    torch.save(content, tmp_path / "official.pth")
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    convert_file(tmp_path / "official.pth", tmp_path / "ours.pth")
    assert same(torch.load(tmp_path / "ours.pth")["state_dict"], convert(official("swin")))
