"""Dense Swins of other libraries, against these libraries' own outputs.

Weights are random, so that a wrong order of merged patches or exchanged norms would show.
"""

import re
import shlex
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from dense_models import assert_same_logits, classifier, images, randomised
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS
from teachers import SWIN
from teachers import classifier as mmpretrain_classifier
from torch import Tensor, nn
from torch.nn import functional as F

from halvit_mm.checkpoints import convert
from halvit_mm.checkpoints.conversion import read_source
from halvit_mm.errors import UserError

StateDict = dict[str, Tensor]
#: Maps of 16, 8 and 4 patches a side in windows of 4; the last one is a single window.
SMALL = dict(
    img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(2, 2, 1), num_heads=(1, 2, 2)
)


def of_timm(**options) -> nn.Module:
    options = {**SMALL, "num_classes": 5, **options}
    return randomised(timm.create_model("swin_tiny_patch4_window7_224", **options))


def as_authors(weights: StateDict) -> StateDict:
    """Weights of timm's in the layout of Swin's authors, with the buffers that these save."""
    named = {}
    for name, value in weights.items():
        name = re.sub(
            r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        )
        named[name.replace("head.fc.", "head.")] = value
    for name in list(named):
        if name.endswith("relative_position_bias_table"):
            block = name.removesuffix(".attn.relative_position_bias_table")
            named[f"{block}.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
            named[f"{block}.attn_mask"] = torch.zeros(4, 16, 16)
    return named


def of_mmpretrain(**options) -> nn.Module:
    import mmpretrain.models  # noqa: F401

    model = mmpretrain_classifier({**SWIN, **options})
    return randomised(MODELS.build({"_scope_": "mmpretrain", **Config(dict(model=model)).model}))


@pytest.mark.parametrize("options", [{}, dict(qkv_bias=False), dict(mlp_ratio=3.0)], ids=str)
@pytest.mark.parametrize("layout", ["timm's", "the authors'"])
def test_timm_and_the_authors(options, layout):
    theirs = of_timm(**options)
    weights = theirs.state_dict()
    assert "layers.1.downsample.norm.weight" in weights
    weights = as_authors(weights) if layout == "the authors'" else weights
    conversion = read_source({"model": weights})
    assert conversion.source == f"Swin of width 8 and 2/2/1 layers in {layout} names"
    assert conversion.fresh == () and conversion.left_out == {}
    assert_same_logits(theirs, conversion, images(32))


def test_mmpretrain():
    theirs = of_mmpretrain()
    conversion = read_source(theirs.state_dict())
    assert conversion.source == "Swin of width 16 and 2/4 layers in mmpretrain's names"
    wrapper = nn.Module()
    wrapper.forward = lambda x: theirs.head(theirs.extract_feat(x))
    assert_same_logits(wrapper, conversion, images(32))


@torch.no_grad()
def test_mmdets_backbone_with_norms_of_several_stages():
    from mmdet.models.backbones import SwinTransformer

    theirs = randomised(
        SwinTransformer(
            embed_dims=8,
            depths=(2, 2, 1),
            num_heads=(1, 2, 2),
            window_size=4,
            strides=(4, 2, 2),
            out_indices=(0, 1, 2),
        )
    )
    weights = {f"backbone.{name}": value for name, value in theirs.state_dict().items()}
    conversion = read_source({**weights, "rpn_head.rpn_cls.bias": torch.ones(3)})
    assert conversion.left_out == {"rpn_head": 1} and conversion.fresh == ("head.fc",)
    assert conversion.cfg_options["model.backbone.out_indices"] == (0, 1, 2)
    x = images(64)
    outs = classifier(conversion).backbone(x)
    for given, expected in zip(outs, theirs(x), strict=True):
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-10)


def test_another_window():
    weights = of_timm().state_dict()
    conversion = read_source(weights, window_size=5)
    assert conversion.backbone["window_size"] == 5
    tables = [name for name in conversion.state_dict if name.endswith("rel_pos.table")]
    assert set(conversion.resized) == set(tables) and len(tables) == 5
    table = weights["layers.1.blocks.1.attn.relative_position_bias_table"]
    grid = table.T.reshape(1, 2, 7, 7)
    expected = F.interpolate(grid, size=(9, 9), mode="bicubic").flatten(2)[0].T
    found = conversion.state_dict["backbone.stages.1.blocks.1.rel_pos.table"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("swin_tiny_patch4_window7_224", "dense_swin_tiny"),
        ("swin_small_patch4_window7_224", "dense_swin_small"),
        ("swin_base_patch4_window7_224", "dense_swin_base"),
        ("swin_base_patch4_window12_384", "dense_swin_base_384"),
    ],
)
def test_published_sizes_load_strictly_into_the_configs_model(root, name, config):
    with torch.device("meta"):
        weights = timm.create_model(name).state_dict()
    conversion = read_source(weights)
    assert conversion.config == f"configs/imagenet/{config}_imagenet.py"
    assert conversion.cfg_options == {}
    load_into_config(root, conversion)


def test_small_models_come_with_the_options_they_need(root):
    load_into_config(root, read_source(of_timm().state_dict()))


def load_into_config(root, conversion) -> None:
    import mmpretrain.models  # noqa: F401

    cfg = Config.fromfile(root / conversion.config)
    if words := re.search("--cfg-options (.*)", conversion.summary()):
        given = Namespace()
        DictAction([], "cfg_options")(None, given, shlex.split(words[1]))
        cfg.merge_from_dict(given.cfg_options)
    with torch.device("meta"):
        model = MODELS.build({"_scope_": "mmpretrain", **cfg.model})
    model.load_state_dict(conversion.state_dict, assign=True)


def put(name: str, *shape: int) -> Callable[[StateDict], None]:
    return lambda weights: weights.update({name: torch.ones(shape)})


def drop(name: str) -> Callable[[StateDict], None]:
    return lambda weights: weights.pop(name)


BLOCK = "layers.1.blocks.1"
TABLE = f"{BLOCK}.attn.relative_position_bias_table"
CHANGES = [
    (drop("patch_embed.norm.bias"), r"missing patch_embed\.norm\.bias"),
    (drop("layers.1.downsample.norm.bias"), r"missing layers\.1\.downsample\.norm\.bias"),
    (drop(f"{BLOCK}.mlp.fc1.weight"), r"missing layers\.1\.blocks\.1\.mlp\.fc1\.weight"),
    (drop(f"{BLOCK}.attn.qkv.bias"), r"missing layers\.1\.blocks\.1\.attn\.qkv\.bias"),
    (drop("layers.0.blocks.0.attn.relative_position_bias_table"), "missing .*position_bias_table"),
    (drop("norm.weight"), r"missing norm\.weight"),
    (put(TABLE, 48, 2), r"\(48, 2\), not \(49, 2\)"),
    (
        put("layers.1.blocks.0.attn.relative_position_bias_table", 25, 2),
        r"is for windows of 3 × 3 tokens, where the first stage has 4 × 4",
    ),
    (
        put("layers.1.blocks.0.attn.relative_position_bias_table", 48, 2),
        "48 rows, which no square window has",
    ),
    (
        put("layers.1.blocks.0.attn.relative_position_bias_table", 49, 3),
        "3 heads do not divide the width of 16",
    ),
    (put("absolute_pos_embed", 1, 256, 8), r"has absolute positions \(absolute_pos_embed\)"),
    (put(f"{BLOCK}.attn.logit_scale", 2, 1, 1), r"is a Swin V2 \(layers\.1\.blocks\.1\.attn\.log"),
    (put(f"{BLOCK}.extra.weight", 2), r"unknown layers\.1\.blocks\.1\.extra\.weight"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[r for _, r in CHANGES])
def test_refused_with_the_sources_names_and_a_cure(change, reason):
    weights = dict(of_timm().state_dict())
    convert(weights)
    change(weights)
    with pytest.raises(UserError, match=reason) as caught:
        convert(weights)
    assert re.search(r"\b(give|download|choose)\b", str(caught.value).lower())
    assert "\n" not in str(caught.value)


def test_swin_v2():
    with torch.device("meta"):
        weights = timm.create_model("swinv2_tiny_window8_256").state_dict()
    with pytest.raises(UserError, match=r"is a Swin V2 .*: give a Swin of the first kind"):
        convert(weights)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_converted_weights_are_known_as_such(prefix):
    weights = convert(of_timm().state_dict())
    weights = {name.replace("backbone.", prefix): value for name, value in weights.items()}
    with pytest.raises(UserError, match="have this project's names already"):
        convert(weights)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (partial(convert, num_heads=3), "num_heads does not go with dense Swins"),
        (partial(convert, window_size=0), "window_size=0 is no side of a window: choose"),
    ],
)
def test_options_that_do_not_fit(call, reason):
    with pytest.raises(UserError, match=reason):
        call(of_timm().state_dict())
