"""Writing checkpoints for MiniViT's own code."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import official_mini_deit
import official_mini_swin
import pytest
import torch
from mmengine.config import Config
from official_mini_swin import parameters
from processes import run
from small_minivit import StateDict, official, ours, same, small_deit, small_swin
from torch import nn
from torch.nn import functional as F

from halvit_mm.backbones import HaLViT
from halvit_mm.checkpoints import convert, to_official
from halvit_mm.checkpoints.conversion import convert_file, export_file
from halvit_mm.errors import UserError


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", ["deit", "swin"])
@pytest.mark.parametrize("classes", [None, 10])
def test_there_and_back_is_bit_equal(tmp_path, family, half, classes):
    weights = official(family, num_classes=classes)
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    torch.save({"model": weights, "epoch": 299}, tmp_path / "official.pth")
    convert_file(tmp_path / "official.pth", tmp_path / "ours.pth")
    export = export_file(tmp_path / "ours.pth", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(back) == ["model"] and same(back["model"], weights)
    assert re.match(
        rf"Mini-\w+ of .* in MiniViT's names: {len(weights)} tensors, for images "
        rf"of {48 if family == 'deit' else 96} pixels",
        export.summary(),
    )
    convert_file(tmp_path / "back.pth", tmp_path / "again.pth")
    assert (tmp_path / "again.pth").read_bytes() == (tmp_path / "ours.pth").read_bytes()


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "formulas", "side"),
    [
        (small_deit, official_mini_deit, 48),
        (lambda: small_deit(share=4), official_mini_deit, 48),
        (small_swin, official_mini_swin, 96),
        (lambda: small_swin(share=2), official_mini_swin, 96),
    ],
)
def test_the_authors_formulas_give_what_the_model_does(
    make: Callable[[], nn.Module], formulas: ModuleType, side: int
):
    backbone = make().double().eval()
    weights = {name: value.double() for name, value in ours(backbone).items()}
    backbone.load_state_dict({k[9:]: v for k, v in weights.items() if k.startswith("backbone.")})
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)).double()
    features = backbone(x)[-1]
    features = features.mean((2, 3)) if features.ndim == 4 else features
    expected = F.linear(features, weights["head.fc.weight"], weights["head.fc.bias"])
    found = formulas.logits(to_official(weights).state_dict, x)
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


def buffers(weights: StateDict) -> StateDict:
    return {name: weights[name] for name in weights.keys() - parameters(weights).keys()}


def test_masks_are_for_the_size_that_the_facts_or_the_caller_say():
    weights = ours(small_swin())
    for options, size in [
        (dict(), 96),
        (dict(meta=dict(img_size=192)), 192),
        (dict(meta=dict(img_size=192), img_size=96), 96),
    ]:
        export = to_official(weights, **options)
        assert export.img_size == size
        assert same(buffers(export.state_dict), buffers(official("swin", img_size=size)))


def test_sizes_can_change_on_the_way():
    export = to_official(ours(small_swin()), img_size=160, window_size=5)
    assert len(export.resized) == 4
    assert export.state_dict["layers.0.blocks.0.attn_mask"].shape == (64, 25, 25)
    assert "4 of them resampled" in export.summary()
    export = to_official(ours(small_deit()), img_size=96)
    assert export.state_dict["pos_embed"].shape == (1, 144, 24)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: small_deit(tied=True), r"tied as in HaLViT \(backbone\.blocks\.0\.attn\.weight\)"),
        (lambda: small_deit(tied=("ffn",)), r"\(backbone\.blocks\.0\.ffn\.weight\)"),
        (lambda: small_swin(tied=("attn",)), r"\(backbone\.stages\.0\.blocks\.0\.attn\.weight\)"),
        (lambda: HaLViT(arch=dict(dim=24, depth=1, num_heads=3)), "tied as in HaLViT"),
        (lambda: small_deit(share=1), "no LayerNorms of their own"),
        (lambda: small_swin(share=1), "no LayerNorms of their own"),
        (lambda: small_deit(transforms=False), "no LayerNorms of their own"),
        (lambda: small_deit(transforms=("norm", "rel_pos")), "no mixers of heads before"),
        (
            lambda: small_deit(transforms=("norm", "mix_logits", "mix_weights")),
            r"no relative positions of their own \(rel_pos\)",
        ),
        (
            lambda: small_swin(transforms=("norm", "mix_logits", "mix_weights")),
            r"no local convolutions of their own \(local\)",
        ),
        (lambda: small_swin(out_indices=(2, 3)), r"without an official form \(backbone\.norm2"),
    ],
)
def test_models_without_an_official_form(make, reason):
    with pytest.raises(UserError, match=reason) as caught:
        to_official(ours(make()))
    assert "official form" in str(caught.value)


def config_text(**options) -> dict[str, str]:
    """Facts as a training writes them."""
    model = dict(type="ImageClassifier", backbone=dict(arch="tiny", **options))
    return dict(cfg=Config(dict(model=model, train_cfg=dict(max_epochs=3))).pretty_text)


@pytest.mark.parametrize(
    ("make", "wrong", "right"),
    [
        (small_swin, dict(mask_all_steps=False), dict(mask_all_steps=True)),
        (small_deit, dict(window_size=14), dict(window_size=0)),
    ],
)
@pytest.mark.parametrize("facts", [config_text, lambda **options: dict(backbone=options)])
def test_options_that_only_the_facts_tell(make, wrong, right, facts):
    kind = "MiniSwin" if make is small_swin else "MiniDeiT"
    weights = ours(make())
    (option,) = wrong
    with pytest.raises(UserError, match=f"trained with {option} other than"):
        to_official(weights, meta=facts(type=kind, **wrong))
    expected = to_official(weights).state_dict
    for meta in (facts(type=kind, **right), facts(type=kind), dict(cfg="no config (")):
        assert same(to_official(weights, meta=meta).state_dict, expected)
    # Another model's options, such as the teacher's, do not count.
    assert same(to_official(weights, meta=config_text(type="Other", **wrong)).state_dict, expected)


@pytest.mark.parametrize(
    ("without", "extra", "reason"),
    [
        (
            r"backbone\.blocks\.1\.attn\.proj\.bias",
            {},
            r"missing blocks\.1\.block\.attn\.proj\.bias",
        ),
        (r"backbone\..*", {}, r"\(head\.fc\.weight, head\.fc\.bias, …\) are of no Mini-DeiT"),
        ("", {"neck.weight": torch.ones(2)}, r"without an official form \(neck\.weight\)"),
        (".*", official("deit"), "of no Mini-DeiT or Mini-Swin of this project: give"),
    ],
)
def test_what_is_not_a_whole_classifier_is_not_written(without, extra, reason):
    weights = ours(small_deit())
    weights = {k: v for k, v in weights.items() if not re.fullmatch(without, k)}
    with pytest.raises(UserError, match=reason):
        to_official({**weights, **extra})


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("ours.pth", "there.pth", r"there\.pth: this exists already; remove it or"),
        ("ours.pth", "ours.pth", r"ours\.pth: this is the source itself"),
        (
            "official.pth",
            "new/x.pth",
            r"official\.pth: the weights \(.*of no Mini-DeiT or Mini-Swin",
        ),
        ("none.pth", "new/x.pth", r"none\.pth: there is no such checkpoint"),
    ],
)
def test_what_is_refused_leaves_no_trace(tmp_path, source, target, reason):
    torch.save({"state_dict": ours(small_swin())}, tmp_path / "ours.pth")
    torch.save({"model": official("swin")}, tmp_path / "official.pth")
    (tmp_path / "there.pth").write_text("precious")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=reason):
        export_file(tmp_path / source, tmp_path / target)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# The command


def command(root: Path, *arguments: str) -> list:
    return [sys.executable, root / "tools/convert_checkpoint.py", *arguments]


def test_command_converts_there_and_back(tmp_path, root):
    torch.save({"model": official("swin")}, tmp_path / "official.pth")
    sizes = ("--img-size", "160", "--window-size", "5")
    status, output, errors = run(command(root, "official.pth", "ours.pth", *sizes), tmp_path)
    assert status == 0, errors
    assert "Mini-Swin of width 8 and 2/2/4/2 layers in MiniViT's names: " in output
    assert "for images of 160 pixels" in output and "the weights are in ours.pth" in output
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert content["meta"]["img_size"] == 160 and len(content["meta"]["resized"]) == 4
    status, output, errors = run(command(root, "ours.pth", "back.pth", "--to-official"), tmp_path)
    assert status == 0, errors
    assert "tensors, for images of 160 pixels\nthe weights are in back.pth\n" in output
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert same(convert(back), content["state_dict"])


def test_command_refuses_in_one_line(tmp_path, root):
    options = ("--to-official", "--tied-stages")
    status, output, errors = run(command(root, "ours.pth", "new/x.pth", *options), tmp_path)
    assert (status, output) == (2, "")
    assert errors == "error: --tied-stages does not go with --to-official: leave it away\n"
    assert list(tmp_path.iterdir()) == []
