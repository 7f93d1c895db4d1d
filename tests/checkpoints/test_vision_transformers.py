"""Plain dense vision transformers of other libraries, against these libraries' own outputs."""

import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable

import pytest
import timm
import torch
from dense_models import assert_same_logits, classifier, images, randomised
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS
from processes import run
from teachers import VIT
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from halvit_mm.checkpoints import convert
from halvit_mm.checkpoints.conversion import read_source
from halvit_mm.errors import UserError

StateDict = dict[str, Tensor]
SMALL = dict(img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3, num_classes=5)


def of_timm(name: str = "vit_tiny_patch16_224", **options) -> nn.Module:
    return randomised(timm.create_model(name, **{**SMALL, **options}))


def of_torchvision() -> nn.Module:
    return randomised(VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5))


def of_mmpretrain(**options) -> nn.Module:
    import mmpretrain.models  # noqa: F401

    head = options.pop("head", dict(type="VisionTransformerClsHead"))
    model = dict(
        type="mmpretrain.ImageClassifier",
        backbone={**VIT, **options},
        head=dict(num_classes=5, in_channels=16, topk=(1,), **head),
    )
    return randomised(MODELS.build(Config(dict(model=model)).model))


def forward(model: nn.Module) -> nn.Module:
    """mmpretrain's classifier as a module from images to logits."""
    wrapper = nn.Module()
    wrapper.forward = lambda x: model.head(model.extract_feat(x))
    return wrapper


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(init_values=0.1),
        dict(mlp_ratio=3.0),
        dict(qkv_bias=False),
        dict(in_chans=1),
        dict(class_token=False, global_pool="avg", fc_norm=False),
        dict(no_embed_class=True, init_values=1e-6),
    ],
    ids=str,
)
def test_timm(options):
    theirs = of_timm(**options)
    conversion = read_source(theirs.state_dict(), num_heads=3)
    has_token = options.get("class_token", True)
    assert conversion.source == "ViT of width 24 and 2 layers in timm's names"
    assert conversion.backbone["with_cls_token"] == has_token
    assert (conversion.backbone["layer_scale"] is not None) == ("init_values" in options)
    assert conversion.img_size == 32 and conversion.left_out == {} and conversion.fresh == ()
    assert_same_logits(theirs, conversion, images(32, channels=options.get("in_chans", 3)))


def test_authors_of_deit_iii():
    theirs = of_timm("deit3_small_patch16_224")
    weights = {
        re.sub(r"ls([12])\.gamma", r"gamma_\1", name): value
        for name, value in theirs.state_dict().items()
    }
    assert "blocks.1.gamma_2" in weights and weights["pos_embed"].shape == (1, 16, 24)
    conversion = read_source({"model": weights}, num_heads=3)
    assert conversion.state_dict["backbone.pos_embed"][:, 0].abs().max() == 0
    assert_same_logits(theirs, conversion, images(32))


def test_a_distillation_token_goes_with_its_position_and_head():
    theirs = of_timm("deit_tiny_distilled_patch16_224")
    conversion = read_source(theirs.state_dict(), num_heads=3)
    assert conversion.left_out == {
        "dist_token": 1,
        "head_dist": 2,
        "position of dist_token in pos_embed": 1,
    }
    assert "left out: dist_token (1 tensors), head_dist" in conversion.summary()
    # What remains is the same network without the token.
    plain = of_timm()
    weights = theirs.state_dict()
    weights["pos_embed"] = weights["pos_embed"][:, [0, *range(2, 18)]]
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    assert_same_logits(plain, conversion, images(32))


@pytest.mark.parametrize("former", [False, True])
def test_torchvision(former):
    theirs = of_torchvision()
    weights = theirs.state_dict()
    if former:
        names = {"mlp.0": "mlp.linear_1", "mlp.3": "mlp.linear_2"}
        weights = {
            re.sub(r"mlp\.[03]", lambda match: names[match[0]], name): value
            for name, value in weights.items()
        }
    conversion = read_source(weights, num_heads=3)
    assert conversion.source.endswith("in torchvision's names")
    assert_same_logits(theirs, conversion, images(32))


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(layer_scale_init_value=0.1),
        dict(head=dict(type="LinearClsHead")),
        dict(qkv_bias=False),
    ],
    ids=str,
)
def test_mmpretrain(options):
    theirs = of_mmpretrain(**options)
    conversion = read_source(theirs.state_dict(), num_heads=2)
    assert conversion.source == "ViT of width 16 and 3 layers in mmpretrain's names"
    assert_same_logits(forward(theirs), conversion, images(32))


def test_mmpretrains_bare_backbone():
    theirs = of_mmpretrain().backbone
    conversion = read_source(theirs.state_dict(), num_heads=2)
    assert conversion.fresh == ("head.fc",)
    out = classifier(conversion).backbone(images(32))[0]
    torch.testing.assert_close(out, theirs(images(32))[0], rtol=0, atol=1e-10)


def test_mmpretrains_distilled_model():
    theirs = of_mmpretrain(
        type="DistilledVisionTransformer", head=dict(type="DeiTClsHead", hidden_dim=None)
    )
    conversion = read_source(theirs.state_dict(), num_heads=2)
    assert conversion.left_out == {
        "dist_token": 1,
        "head_dist": 2,
        "position of dist_token in backbone.pos_embed": 1,
    }
    plain = of_mmpretrain()
    weights = theirs.state_dict()
    positions = weights["backbone.pos_embed"]
    weights["backbone.pos_embed"] = positions[:, [0, *range(2, 18)]]
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    assert_same_logits(forward(plain), conversion, images(32))


@pytest.mark.parametrize("with_cls_token", [False, True])
def test_a_norm_of_the_mean_goes_with_the_head_that_reads_it(with_cls_token):
    theirs = of_mmpretrain(
        out_type="avg_featmap", with_cls_token=with_cls_token, head=dict(type="LinearClsHead")
    )
    conversion = read_source(theirs.state_dict(), num_heads=2)
    assert conversion.left_out == {"norm of the mean": 2, "head": 2}
    assert conversion.fresh == ("head.fc",)
    out = theirs.backbone.ln2(classifier(conversion).backbone(images(32))[0])
    torch.testing.assert_close(out, theirs.backbone(images(32))[0], rtol=0, atol=1e-10)


def test_a_norm_of_the_mean_alone_is_no_norm_of_tokens():
    theirs = of_mmpretrain(
        out_type="avg_featmap", final_norm=False, head=dict(type="LinearClsHead")
    )
    with pytest.raises(UserError, match=r"normalises after pooling, .*\(backbone\.ln2\.weight\)"):
        convert(theirs.state_dict(), num_heads=2)


def test_a_head_with_a_hidden_layer_is_left_out():
    theirs = of_mmpretrain(head=dict(type="VisionTransformerClsHead", hidden_dim=8))
    conversion = read_source(theirs.state_dict(), num_heads=2)
    assert conversion.left_out == {"head": 4} and conversion.fresh == ("head.fc",)


def test_parts_of_a_detector_are_left_out():
    weights = {**of_mmpretrain().state_dict(), "neck.conv.weight": torch.ones(1)}
    assert read_source(weights, num_heads=2).left_out == {"neck": 1}


@torch.no_grad()
def test_other_sizes_of_images():
    theirs = of_timm()
    conversion = read_source(theirs.state_dict(), num_heads=3, img_size=48)
    assert conversion.resized == ("backbone.pos_embed",)
    assert conversion.img_size == conversion.backbone["img_size"] == 48
    # What the source's own grid gives on images of that size.
    given, expected = (
        classifier(source).backbone(images(48))[0]
        for source in (conversion, read_source(theirs.state_dict(), num_heads=3))
    )
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config", "options"),
    [
        (
            "vit_tiny_patch16_224",
            "dense_vit_tiny",
            {"model.backbone.arch": "nano", "model.head.in_channels": 192},
        ),
        ("deit_small_patch16_224", "dense_vit_tiny", {}),
        ("vit_base_patch16_224", "dense_vit_medium", {}),
        ("vit_base_patch16_384", "dense_vit_medium", {"model.backbone.img_size": 384}),
        (
            "vit_large_patch16_224",
            "dense_vit_tiny",
            {"model.backbone.arch": "large", "model.head.in_channels": 1024},
        ),
    ],
)
def test_published_sizes_load_strictly_into_the_configs_model(root, name, config, options):
    with torch.device("meta"):
        weights = timm.create_model(name).state_dict()
    conversion = read_source(weights)
    assert conversion.config == f"configs/imagenet/{config}_imagenet.py"
    assert conversion.cfg_options == options
    load_into_config(root, conversion)


def test_small_models_come_with_the_options_they_need(root):
    load_into_config(root, read_source(of_timm(init_values=0.1).state_dict(), num_heads=3))


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


BLOCK = "blocks.1"
CHANGES = [
    (drop("patch_embed.proj.bias"), r"missing patch_embed\.proj\.bias"),
    (drop("patch_embed.proj.weight"), r"missing patch_embed\.proj\.weight"),
    (drop("pos_embed"), "missing pos_embed"),
    (drop("norm.weight"), r"missing norm\.weight"),
    (drop(f"{BLOCK}.attn.qkv.bias"), r"missing blocks\.1\.attn\.qkv\.bias"),
    (drop(f"{BLOCK}.mlp.fc2.weight"), r"missing blocks\.1\.mlp\.fc2\.weight"),
    (drop("head.bias"), r"missing head\.bias"),
    (put(f"{BLOCK}.attn.proj.weight", 24, 23), r"blocks\.1\.attn\.proj\.weight is \(24, 23\), not"),
    (put("pos_embed", 1, 16 + 3, 24), r"pos_embed has 19 positions, which is no square"),
    (put("patch_embed.proj.weight", 24, 3, 8, 4), r"patches of 8 × 4 pixels"),
    (put("reg_token", 1, 4, 24), r"has register tokens \(reg_token\)"),
    (
        put(f"{BLOCK}.attn.q_norm.weight", 8),
        r"normalises within its attention \(blocks\.1\.attn\.q_norm\.weight\)",
    ),
    (put(f"{BLOCK}.attn.relative_position_bias_table", 9, 3), "has relative positions"),
    (put("rel_pos_bias.relative_position_bias_table", 9, 3), "has relative positions"),
    (put(f"{BLOCK}.mlp.w12.weight", 9, 3), r"another feed-forward layer \(blocks\.1\.mlp\.w12"),
    (put("blocks.0.mlp.fc1.weight", 128, 24), "makes 128 hidden units of which .* reads 96"),
    (put("norm_pre.weight", 24), r"before the first block \(norm_pre\.weight\)"),
    (put("patch_embed.norm.weight", 24), r"before the first block \(patch_embed\.norm\.weight\)"),
    (put("attn_pool.q.weight", 24, 24), "pools by attention"),
    (put("fc_norm.weight", 24), "normalises after pooling, where"),
    (put("decoder_embed.weight", 24), r"unknown decoder_embed\.weight"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[r for _, r in CHANGES])
def test_refused_with_the_sources_names_and_a_cure(change, reason):
    weights = dict(of_timm().state_dict())
    convert(weights, num_heads=3)
    change(weights)
    with pytest.raises(UserError, match=reason) as caught:
        convert(weights, num_heads=3)
    assert re.search(r"\b(give|download|choose)\b", str(caught.value).lower())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("beit_base_patch16_224", "has relative positions"),
        ("vit_base_patch16_clip_224", "before the first block"),
        ("vit_base_patch16_siglip_224", "pools by attention"),
        ("vit_small_patch14_reg4_dinov2", "has register tokens"),
        ("eva02_tiny_patch14_224", "normalises after pooling"),
        ("vit_giant_patch14_dinov2", "gated feed-forward"),
    ],
)
def test_timms_other_transformers(name, reason):
    with torch.device("meta"):
        weights = timm.create_model(name, depth=1).state_dict()
    with pytest.raises(UserError, match=reason) as caught:
        convert(weights)
    assert "\n" not in str(caught.value)


def test_command_takes_the_number_of_heads(tmp_path, root):
    torch.save(of_timm().state_dict(), tmp_path / "vit.pth")
    command = [sys.executable, root / "tools/convert_checkpoint.py", "vit.pth", "out.pth"]
    status, output, errors = run([*command, "--num-heads", "3"], tmp_path)
    assert status == 0, errors
    assert output.startswith(
        "ViT of width 24 and 2 layers in timm's names: 32 tensors\nfits config"
    )
    meta = torch.load(tmp_path / "out.pth", weights_only=True)["meta"]
    assert meta["backbone"]["arch"] == dict(dim=24, depth=2, num_heads=3)
    status, _, errors = run([*command, "--num-heads", "3", "--to-official"], tmp_path)
    assert (status, errors) == (
        2,
        "error: --num-heads does not go with --to-official: leave it away\n",
    )


def test_heads_do_not_show_in_weights():
    weights = of_timm().state_dict()
    with pytest.raises(UserError, match=r"width of 24 is no multiple of 64.*--num-heads"):
        convert(weights)
    with pytest.raises(UserError, match="5 heads do not divide the width of 24: choose"):
        convert(weights, num_heads=5)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_converted_weights_are_known_as_such(prefix):
    weights = convert(of_timm().state_dict(), num_heads=3)
    weights = {name.replace("backbone.", prefix): value for name, value in weights.items()}
    with pytest.raises(UserError, match="have this project's names already"):
        convert(weights)


def test_an_option_of_other_models():
    with pytest.raises(UserError, match="window_size does not go with dense ViTs"):
        convert(of_timm().state_dict(), window_size=7)
