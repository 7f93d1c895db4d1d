"""mmpretrain's transformers in this project's classes, against mmpretrain's own."""

from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from teachers import SIDE, SWIN, VIT, build, classifier
from torch import nn

from halvit_mm.analysis.weightless import build_without_weights
from halvit_mm.backbones import HaLViT, MiniSwin
from halvit_mm.distillation import twins
from halvit_mm.distillation.twins import twin_of
from halvit_mm.errors import UserError

# Windows that divide all maps, are shifted in three stages, and cover the last one.
THREE_STAGES = dict(
    SWIN,
    arch=dict(embed_dims=16, depths=[2, 4, 2], num_heads=[2, 2, 4]),
    img_size=64,
    out_indices=(0, 2),
)
CASES = {
    "swin": (SWIN, SIDE),
    "swin, three stages": (THREE_STAGES, 64),
    "swin, oblong": (SWIN, (32, 64)),
    "swin, windows by stage_cfgs": (
        dict(SWIN, window_size=7, stage_cfgs=dict(block_cfgs=dict(window_size=4))),
        SIDE,
    ),
    "swin, patches of 2": (dict(SWIN, patch_size=2), SIDE),
    "vit": (VIT, SIDE),
    "vit, mean": (dict(VIT, out_type="avg_featmap", with_cls_token=False), SIDE),
    "vit, mean beside a class token": (dict(VIT, out_type="avg_featmap"), SIDE),
    "vit, mean without final norm": (dict(VIT, out_type="avg_featmap", final_norm=False), SIDE),
    "vit, two maps": (dict(VIT, out_type="featmap", out_indices=[0, -1]), SIDE),
    "vit, layer scale": (dict(VIT, layer_scale_init_value=0.1), SIDE),
}


def image(size: int | tuple[int, int], batch: int = 2) -> torch.Tensor:
    sides = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, *sides, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_twins_are_equal(case):
    """Weights, norms and biases are all random, so that no two of them could be exchanged."""
    options, size = CASES[case]
    theirs = build(classifier(options)).backbone
    x = image(size)
    twin = twin_of(theirs, options, x.shape[-2:])
    assert type(twin.backbone) is (MiniSwin if options["type"] == "SwinTransformer" else HaLViT)
    outs = twin.backbone.eval()(x)
    outs = outs if twin.norm is None else twin.norm(outs)
    expected = theirs(x)
    assert len(outs) == len(expected)
    for ours, other in zip(outs, expected, strict=True):
        assert other.std() > 0.1
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-12 * float(other.abs().max()) * 10)


@pytest.mark.usefixtures("double_precision")
@torch.no_grad()
def test_features_are_those_of_mmpretrains_layers():
    """Queries, keys, values and outputs, seen by hooks in the network that was copied."""
    theirs = build(classifier(THREE_STAGES)).backbone
    seen: dict[int, dict] = {}
    blocks = [block for stage in theirs.stages for block in stage.blocks]
    for i, block in enumerate(blocks):
        seen[i] = {}
        block.attn.w_msa.qkv.register_forward_hook(
            lambda _, __, out, kept=seen[i]: kept.update(qkv=out)
        )
        block.register_forward_hook(lambda _, __, out, kept=seen[i]: kept.update(hidden=out))
    x = image(64)
    twin = twin_of(theirs, THREE_STAGES, (64, 64)).backbone
    theirs(x)
    _, features = twin.forward_features(x, range(len(blocks)))
    assert twin.num_layers == len(blocks) == len(features) == 8
    for i, (qkv, hidden) in features.items():
        torch.testing.assert_close(torch.cat(qkv, dim=-1), seen[i]["qkv"], rtol=0, atol=1e-10)
        torch.testing.assert_close(hidden, seen[i]["hidden"], rtol=0, atol=1e-10)


def test_other_backbones_have_no_twin():
    from mmpretrain.models import ResNet, SwinTransformer

    class Other(SwinTransformer):
        pass

    assert twin_of(ResNet(18), {}, (SIDE, SIDE)) is None
    options = {key: value for key, value in SWIN.items() if key != "type"}
    assert twin_of(Other(**options), options, (SIDE, SIDE)) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(SWIN, use_abs_pos_embed=True), "use_abs_pos_embed=True"),
        (dict(SWIN, out_after_downsample=True, out_indices=(0,)), "out_after_downsample=True"),
        (dict(SWIN, pad_small_map=True), "pad_small_map=True"),
        (dict(SWIN, patch_cfg=dict(norm_cfg=None)), "patch_cfg={'norm_cfg': None}"),
        (dict(SWIN, stage_cfgs=dict(block_cfgs=dict(ffn_ratio=2))), "stage_cfgs="),
        (dict(VIT, pre_norm=True), "pre_norm=True"),
        (dict(VIT, qkv_bias=False), "qkv_bias=False"),
        (dict(VIT, norm_cfg=dict(type="LN", eps=1e-5)), "norm_cfg="),
        (dict(VIT, layer_cfgs=dict(act_cfg=dict(type="ReLU"))), "layer_cfgs="),
    ],
)
def test_options_without_a_counterpart(options, named):
    backbone = build(classifier(options)).backbone
    with pytest.raises(UserError) as error:
        twin_of(backbone, options, (SIDE, SIDE))
    message = str(error.value)
    assert f"has {named}" in message
    assert f"need a {options['type']} without it; use the prediction level alone" in message


def test_maps_that_do_not_divide_into_windows():
    """mmpretrain lets tokens attend to the padding, this project does not."""
    backbone = build(classifier(SWIN)).backbone
    with pytest.raises(UserError, match="cannot be followed layer by layer on images of 40 × 40"):
        twin_of(backbone, SWIN, (40, 40))


@pytest.mark.parametrize("mistake", ["merging in mmcv's order", "one weight", "norms exchanged"])
def test_the_last_comparison_sees(monkeypatch, mistake):
    """Whatever the table of names may miss is found on an image."""
    load = nn.Module.load_state_dict

    def mistaken(module: nn.Module, weights: dict, **options):
        weights = deepcopy(weights)
        if mistake == "merging in mmcv's order":
            value = weights["stages.0.downsample.reduction.weight"]
            value = value.unflatten(1, (2, 2, -1)).permute(0, 3, 2, 1)
            weights["stages.0.downsample.reduction.weight"] = value.flatten(1)
        elif mistake == "one weight":
            weights["stages.1.blocks.3.ffn.fc2.bias"][5] += 1
        else:
            block = "stages.0.blocks.1"
            for kind in ("weight", "bias"):
                a, b = f"{block}.norm1.0.{kind}", f"{block}.norm2.0.{kind}"
                weights[a], weights[b] = weights[b], weights[a]
        return load(module, weights, **options)

    backbone = build(classifier(SWIN)).backbone
    monkeypatch.setattr(twins.MiniSwin, "load_state_dict", mistaken)
    with pytest.raises(UserError, match="cannot be followed layer by layer"):
        twin_of(backbone, SWIN, (SIDE, SIDE))


@pytest.mark.parametrize(
    "path",
    [
        "swin_transformer/swin-tiny_16xb64_in1k.py",
        "swin_transformer/swin-base_16xb64_in1k-384px.py",
        "swin_transformer/swin-large_16xb64_in1k.py",
        "vision_transformer/vit-base-p16_32xb128-mae_in1k.py",
        "deit/deit-small_4xb256_in1k.py",
    ],
)
def test_mmpretrains_own_architectures(monkeypatch, path):
    """By names and shapes; without weights, so that the largest take no time."""
    cfg = Config.fromstring(f'_base_ = "mmpretrain::{path}"', ".py")
    backbone = build_without_weights(cfg).backbone
    monkeypatch.setattr(twins, "_compare", lambda *_: None)
    with torch.device("meta"):
        twin = twin_of(backbone, cfg.model.backbone, (224, 224))
    parts = [twin.backbone] if twin.norm is None else [twin.backbone, twin.norm]
    made = sum(p.numel() for part in parts for p in part.parameters())
    assert made == sum(p.numel() for p in backbone.parameters()) > 20_000_000
