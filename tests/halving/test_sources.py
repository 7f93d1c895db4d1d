"""Dense checkpoints read for halving: equal outputs, and what is refused."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from dense_models import images, logits, randomised
from mmengine.config import Config
from mmengine.registry import MODELS
from teachers import SWIN, VIT
from teachers import classifier as mmpretrain_classifier
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet, resnet18

from halvit_mm.backbones import HalfResNet, HalfResNeXt, HaLViT, MiniDeiT, MiniSwin
from halvit_mm.errors import UserError
from halvit_mm.halving.sources import DenseModel, dense_model, read_dense

ARCH = dict(dim=24, depth=2, num_heads=3)
VITS = {
    "HaLViT": dict(type="HaLViT", arch=ARCH, img_size=32, patch_size=8),
    "MiniDeiT": dict(type="MiniDeiT", arch=ARCH, img_size=32, patch_size=8),
}
SWIN_ARCH = dict(dim=8, depths=(2, 2, 2), num_heads=(1, 2, 2))
HALF_SWIN = dict(type="MiniSwin", arch=SWIN_ARCH, window_size=4, patch_size=2)
HALF_RESNET = dict(type="HalfResNet", depth=50, base_channels=64)
#: What only training or the half-weight form needs.
OF_HALF = dict(
    init_std=0.1,
    drop_path_rate=0.5,
    frozen_stages=1,
    with_cp=True,
    init_cfg=dict(type="PretrainedBackbone", checkpoint="nowhere.pth"),
)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def timm_vit(**options) -> nn.Module:
    sizes = dict(img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3, num_classes=5)
    return randomised(timm.create_model("vit_tiny_patch16_224", **{**sizes, **options}))


def timm_swin(**options) -> nn.Module:
    sizes = dict(embed_dim=8, depths=(2, 2, 2), num_heads=(1, 2, 2), window_size=4, patch_size=2)
    return randomised(
        timm.create_model("swin_tiny_patch4_window7_224", img_size=32, num_classes=5, **sizes)
    )


def torchvision_resnet(**options) -> nn.Module:
    return randomised(ResNet(Bottleneck, [3, 4, 6, 3], num_classes=5, **options))


def assert_same(theirs: nn.Module, read: DenseModel, x: Tensor) -> None:
    with torch.no_grad():
        expected = theirs(x)
    given = logits(read.backbone, read.head, x)
    assert expected.std() > 0.05
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


def own_twin(half: dict, **options) -> tuple[nn.Module, dict[str, Tensor]]:
    """A dense twin of this project's with a head, and its weights as a training saves them."""
    backbone = MODELS.build({**half, **MODELS.get(half["type"]).dense_twin, **options})
    model = nn.Module()
    model.backbone = backbone
    width = getattr(backbone, "feat_dim", None) or getattr(backbone, "embed_dims", None)
    model.head = nn.Module()
    model.head.fc = nn.Linear(width or backbone.num_features[-1], 5)
    randomised(model)
    model.forward = lambda x: logits(model.backbone, model.head.fc, x)
    return model, model.state_dict()


# Equal outputs


@pytest.mark.parametrize("half", VITS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(init_values=0.1),
        dict(class_token=False, global_pool="avg", fc_norm=False),
        dict(no_embed_class=True),
    ],
    ids=str,
)
def test_timms_vits(half, options):
    theirs = timm_vit(**options)
    read = dense_model(theirs.state_dict(), VITS[half])
    assert type(read.backbone).__name__ == half
    assert read.title == "ViT of width 24 and 2 layers in timm's names"
    assert read.backbone.num_heads == 3
    assert_same(theirs, read, images(32))


def test_layer_scale_is_kept_where_the_class_has_it():
    weights = timm_vit(init_values=0.1).state_dict()
    kept = dense_model(weights, VITS["HaLViT"]).backbone
    assert torch.equal(kept.blocks[1].scale2.gamma, weights["blocks.1.ls2.gamma"])
    folded = dense_model(weights, VITS["MiniDeiT"]).backbone.state_dict()
    assert not any("gamma" in name for name in folded)


def test_left_out_of_a_distilled_deit():
    sizes = dict(img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=3)
    theirs = randomised(timm.create_model("deit_tiny_distilled_patch16_224", **sizes))
    read = dense_model(theirs.state_dict(), VITS["HaLViT"])
    assert set(read.left_out) == {
        "dist_token",
        "head_dist",
        "position of dist_token in pos_embed",
    }
    assert read.backbone.pos_embed.shape == (1, 17, 24)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_mmpretrain(kind):
    import mmpretrain.models  # noqa: F401

    backbone = dict(vit=VIT, swin=SWIN)[kind]
    model = MODELS.build({"_scope_": "mmpretrain", **mmpretrain_classifier(backbone)})
    theirs = nn.Module()
    theirs.forward = lambda x: model.head(model.extract_feat(x))
    randomised(model)
    half = {
        "vit": dict(VITS["HaLViT"], arch=dict(dim=16, depth=3, num_heads=2), mlp_ratio=3),
        "swin": dict(HALF_SWIN, arch=dict(dim=16, depths=(2, 4), num_heads=(2, 4)), patch_size=4),
    }[kind]
    assert_same(theirs, dense_model(model.state_dict(), half), images(32))


def test_timms_swin():
    theirs = timm_swin()
    read = dense_model(theirs.state_dict(), HALF_SWIN)
    assert type(read.backbone) is MiniSwin and read.backbone.stages[0].share == 1
    assert_same(theirs, read, images(32))


@pytest.mark.parametrize("counters", [True, False])
def test_torchvisions_resnets(counters):
    theirs = torchvision_resnet()
    weights = theirs.state_dict()
    if not counters:
        weights = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    read = dense_model(weights, dict(HALF_RESNET, norm_cfg=dict(type="SyncBN")))
    assert type(read.backbone) is HalfResNet
    assert read.title == "ResNet of 50 layers in torchvision's names"
    assert_same(theirs, read, images(64))


def test_torchvisions_resnext():
    theirs = torchvision_resnet(groups=4, width_per_group=16)
    half = dict(type="HalfResNeXt", depth=50, groups=4, base_width=16)
    read = dense_model(theirs.state_dict(), half)
    assert type(read.backbone) is HalfResNeXt
    assert_same(theirs, read, images(64))


@torch.no_grad()
def test_mmdets_resnet():
    from mmdet.models.backbones import ResNet as MMDetResNet

    theirs = randomised(MMDetResNet(50, base_channels=16, stem_channels=16))
    weights = {f"backbone.{name}": value for name, value in theirs.state_dict().items()}
    read = dense_model(
        {**weights, "rpn_head.rpn_cls.bias": torch.ones(3)}, dict(HALF_RESNET, base_channels=16)
    )
    assert read.head is None and read.left_out == {"rpn_head": 1}
    x = images(64)
    for given, expected in zip(read.backbone(x), theirs(x), strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-10)


OWN = {
    "HaLViT": VITS["HaLViT"],
    "HaLViT, mean": dict(VITS["HaLViT"], with_cls_token=False, out_type="avg_featmap"),
    "HaLViT, oblong": dict(VITS["HaLViT"], img_size=(32, 64)),
    "HaLViT, windows": dict(
        VITS["HaLViT"],
        with_cls_token=False,
        out_type="featmap",
        window_size=2,
        global_blocks=(1,),
        rel_pos=True,
    ),
    "MiniDeiT": dict(VITS["MiniDeiT"], with_cls_token=True),
    "MiniSwin": HALF_SWIN,
    "HalfResNet": dict(HALF_RESNET, base_channels=16, cifar_stem=True, strides=(2, 2, 2, 2)),
    "HalfResNet, deep stem": dict(HALF_RESNET, base_channels=16, deep_stem=True, avg_down=True),
}


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("case", OWN)
def test_own_dense_twins(tmp_path, case, prefix):
    """As tools/train.py saves them, with what training keeps beside, or the bare backbone."""
    half = OWN[case]
    theirs, weights = own_twin(half)
    weights = {name.replace("backbone.", prefix): value for name, value in weights.items()}
    checkpoint = dict(
        state_dict=weights,
        ema_state_dict={f"module.{name}": value + 1 for name, value in weights.items()},
        optimizer=dict(state={}),
        meta=dict(epoch=3),
    )
    torch.save(checkpoint, tmp_path / "epoch_3.pth")
    size = half.get("img_size", 32)
    assert_same(theirs, read_dense(tmp_path / "epoch_3.pth", {**half, **OF_HALF}), images(size))


def test_own_twins_of_one_class_are_read_for_the_other():
    theirs, weights = own_twin(VITS["HaLViT"])
    assert_same(theirs, dense_model(weights, VITS["MiniDeiT"]), images(32))
    theirs, weights = own_twin(VITS["MiniDeiT"], with_cls_token=True)
    read = dense_model(weights, VITS["HaLViT"])
    assert type(read.backbone) is HaLViT
    assert_same(theirs, read, images(32))


def test_what_only_training_and_the_half_form_need_is_left_behind():
    half = {**VITS["HaLViT"], **OF_HALF, "signed_ffn": True, "second_scale": True}
    theirs = timm_vit()
    read = dense_model(theirs.state_dict(), {**half, "second_rank": 4})
    backbone = read.backbone
    assert not any(p.requires_grad for m in (backbone, read.head) for p in m.parameters())
    assert not any(module.training for module in backbone.modules())
    assert backbone.frozen_stages == -1 and backbone.init_cfg is None and not backbone.with_cp
    assert_same(theirs, read, images(32))


def test_options_as_a_config_file_has_them():
    half = Config(dict(model=dict(backbone=dict(VITS["HaLViT"])))).model.backbone
    theirs = timm_vit()
    assert_same(theirs, dense_model(theirs.state_dict(), half), images(32))


IN_WINDOWS = dict(
    VITS["HaLViT"], with_cls_token=False, out_type="featmap", window_size=2, rel_pos=True
)


def test_foreign_models_attend_globally_whatever_the_config_does():
    theirs = timm_vit(class_token=False, global_pool="avg", fc_norm=False)
    assert_same(theirs, dense_model(theirs.state_dict(), IN_WINDOWS), images(32))


def test_own_models_with_a_class_token_attend_globally():
    theirs, weights = own_twin(VITS["HaLViT"])
    half = dict(IN_WINDOWS, out_type="cls_token", with_cls_token=True, window_size=0, rel_pos=False)
    assert_same(theirs, dense_model(weights, half), images(32))
    read = dense_model(weights, IN_WINDOWS)
    assert read.backbone.windows == (None, None) and read.backbone.out_type == "featmap"


def test_in_single_precision_whatever_the_file_has():
    torch.set_default_dtype(torch.float32)
    weights = timm_vit().state_dict()
    state = torch.get_rng_state()
    read = dense_model({name: value.half() for name, value in weights.items()}, VITS["HaLViT"])
    assert torch.equal(torch.get_rng_state(), state)
    assert {p.dtype for p in read.backbone.parameters()} == {torch.float32}
    assert read.backbone(images(32).float())[0].dtype == torch.float32
    given = dense_model(weights, VITS["HaLViT"])
    read.backbone.cls_token.zero_()
    assert given.backbone.cls_token.abs().max() > 0 and weights["cls_token"].abs().max() > 0


# Other sizes of images and windows


def test_position_embeddings_are_resampled():
    weights = timm_vit().state_dict()
    read = dense_model(weights, dict(VITS["HaLViT"], img_size=(48, 32)))
    grid = weights["pos_embed"][0, 1:].T.reshape(1, 24, 4, 4)
    expected = F.interpolate(grid, size=(6, 4), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(read.backbone.pos_embed[0, 1:], expected)
    assert torch.equal(read.backbone.pos_embed[:, 0], weights["pos_embed"][:, 0])


def test_tables_of_relative_positions_are_resampled():
    read = dense_model(timm_swin().state_dict(), dict(HALF_SWIN, window_size=8))
    assert read.backbone.stages[0].blocks[0].rel_pos.table.shape == (15**2, 1)
    assert read.backbone(images(32))[0].isfinite().all()


# What is refused


def refusal(weights: dict[str, Tensor], half: dict) -> str:
    with pytest.raises(UserError) as caught:
        dense_model(weights, half, name="dense.pth")
    message = str(caught.value)
    assert message.startswith("dense.pth: ") and "\n" not in message
    assert re.search(r"\b(give|choose|download)\b", message)
    return message


def half_weights(half: dict) -> dict[str, Tensor]:
    named = MODELS.build(half).state_dict().items()
    return {f"backbone.{name}": value for name, value in named}


@pytest.mark.parametrize(
    "half",
    [
        VITS["HaLViT"],
        dict(VITS["HaLViT"], tied=("ffn",)),
        dict(VITS["HaLViT"], tied=("attn",)),
        VITS["MiniDeiT"],
        dict(VITS["MiniDeiT"], transforms=("norm",)),
        HALF_SWIN,
        dict(HALF_RESNET, base_channels=16),
        dict(HALF_RESNET, base_channels=16, stage_design="resnext", tied_stages=(4,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_half_weight_checkpoints(half, prefix):
    weights = {k.replace("backbone.", prefix): v for k, v in half_weights(half).items()}
    message = refusal(weights, half)
    assert re.search(r"uses them more than once already \(.*\): give those of a dense one", message)


@pytest.mark.parametrize(
    ("make", "half", "reason"),
    [
        (
            lambda: {"a": torch.ones(1), "b": torch.ones(1)},
            VITS["HaLViT"],
            r"the weights \(a, b, …\) are of no known dense model: .*timm.*mmpretrain.*torchvision",
        ),
        (
            lambda: timm.create_model("convnext_atto").state_dict(),
            VITS["HaLViT"],
            r"\(stem\.0\.weight, .*no known dense model",
        ),
        (dict, VITS["HaLViT"], "there are no weights in this checkpoint"),
        (lambda: timm_swin().state_dict(), VITS["HaLViT"], "a dense Swin, where the config has a"),
        (lambda: timm_vit().state_dict(), HALF_RESNET, "a dense plain ViT, where the config has a"),
        (lambda: timm_vit().state_dict(), dict(type="ResNet"), "no ResNet can be made: choose"),
        (
            lambda: resnet18().state_dict(),
            HALF_RESNET,
            "stages of 2/2/2/2 blocks, the config's .*3/4/6/3",
        ),
    ],
)
def test_unknown_and_other_models(make, half, reason):
    assert re.search(reason, refusal(make(), half))


def vit_like(**options) -> dict:
    return dict(VITS["HaLViT"], **options)


@pytest.mark.parametrize(
    ("half", "reason"),
    [
        (
            vit_like(arch=dict(dim=48, depth=2, num_heads=3)),
            "is 24 wide, the config's backbone 48: choose a config of the dense model's width",
        ),
        (
            vit_like(arch=dict(dim=24, depth=4, num_heads=3)),
            "has 2 blocks, the config's backbone 4: choose a config of the dense model's depth",
        ),
        (vit_like(patch_size=4), "has patches of 8 pixels, the config's backbone 4: choose"),
        (vit_like(in_channels=1), "reads 3 channels, the config's backbone 1: choose"),
        (vit_like(mlp_ratio=2.0), "layers of 96 hidden units, the config's backbone 48: choose"),
        (
            vit_like(arch=dict(dim=24, depth=2, num_heads=5)),
            "the config's backbone: .*(5|heads)",
        ),
        (vit_like(nonsense=1), "the config's backbone: .*nonsense"),
    ],
)
def test_sizes_of_vits_that_do_not_pair(half, reason):
    with pytest.raises(UserError, match=reason):
        dense_model(timm_vit().state_dict(), half)


@pytest.mark.parametrize(
    ("half", "reason"),
    [
        (dict(arch=dict(SWIN_ARCH, dim=16)), "is 8 wide, the config's backbone 16: choose"),
        (
            dict(arch=dict(SWIN_ARCH, depths=(2, 2, 4))),
            "stages of 2/2/2 blocks, the config's backbone 2/2/4: choose",
        ),
        (
            dict(arch=dict(dim=8, depths=(2, 2), num_heads=(1, 2))),
            "stages of 2/2/2 blocks, the config's backbone 2/2: choose",
        ),
        (
            dict(arch=dict(SWIN_ARCH, num_heads=(1, 2, 4))),
            "has 1/2/2 attention heads, the config's backbone 1/2/4: choose",
        ),
        (dict(patch_size=4), "has patches of 2 pixels, the config's backbone 4: choose"),
        (dict(mlp_ratio=2.0), "layers of 32 hidden units, the config's backbone 16: choose"),
    ],
)
def test_sizes_of_swins_that_do_not_pair(half, reason):
    with pytest.raises(UserError, match=reason):
        dense_model(timm_swin().state_dict(), {**HALF_SWIN, **half})


@pytest.mark.parametrize(
    ("half", "reason"),
    [
        (dict(depth=101), "stages of 3/4/6/3 blocks, the config's backbone 3/4/23/3: choose"),
        (
            dict(
                num_stages=3,
                strides=(1, 2, 2),
                dilations=(1,) * 3,
                tied_stages=(),
                out_indices=(2,),
            ),
            "stages of 3/4/6/3 blocks, the config's backbone 3/4/6: choose",
        ),
        (dict(base_channels=32), "is 256 wide, the config's backbone 128: choose"),
        (dict(base_width=32), "convolutions of 64 channels in its first stage, the config's .* 32"),
        (dict(groups=4, base_width=16), "groups of 64 channels .*, the config's backbone 16"),
        (dict(cifar_stem=True), "first convolution of 7 pixels, the config's backbone 3"),
        (dict(stem_channels=32), "a stem of 64 channels, the config's backbone 32"),
        (dict(in_channels=1), "reads 3 channels, the config's backbone 1"),
    ],
)
def test_sizes_of_resnets_that_do_not_pair(half, reason):
    with pytest.raises(UserError, match=reason):
        dense_model(torchvision_resnet().state_dict(), {**HALF_RESNET, **half})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [timm_vit, timm_swin, torchvision_resnet])
def test_values_that_are_not_finite(make, value):
    weights = make().state_dict()
    halves = {timm_vit: VITS["HaLViT"], timm_swin: HALF_SWIN, torchvision_resnet: HALF_RESNET}
    name = next(name for name in reversed(weights) if name.endswith("bias"))
    weights[name][1] = value
    assert f": {name}: values that are not finite" in refusal(weights, halves[make])


def test_weights_that_are_missing():
    for make, half, name in (
        (timm_vit, VITS["HaLViT"], "blocks.1.mlp.fc2.weight"),
        (timm_swin, HALF_SWIN, "layers.2.blocks.1.attn.proj.bias"),
        (torchvision_resnet, HALF_RESNET, "layer3.4.bn2.running_var"),
    ):
        weights = make().state_dict()
        del weights[name]
        assert f"missing {name}" in refusal(weights, half)


def test_relative_positions_that_a_mini_deit_has_not():
    _, weights = own_twin(OWN["HaLViT, windows"])
    message = refusal(weights, VITS["MiniDeiT"])
    assert "other relative positions than a MiniDeiT (backbone.blocks.0.rel_pos." in message


class RunsCode:
    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "the checkpoint is cut off"),
        (
            lambda path: torch.save({**torch.load(path), "x": RunsCode()}, path),
            "loading would run code",
        ),
        (lambda path: path.unlink(), "there is no such checkpoint"),
        (lambda path: path.write_text("no weights"), "this is not a checkpoint of PyTorch"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, capsys, spoil, reason):
    path = tmp_path / "dense.pth"
    torch.save(timm_vit().state_dict(), path)
    read_dense(path, VITS["HaLViT"])
    spoil(path)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: {reason}"):
        read_dense(path, VITS["HaLViT"])
    assert capsys.readouterr().out == ""


def test_errors_name_the_file_once(tmp_path: Path):
    path = tmp_path / "dense.pth"
    torch.save(timm_swin().state_dict(), path)
    with pytest.raises(UserError) as caught:
        read_dense(path, VITS["HaLViT"])
    assert str(caught.value).count(str(path)) == 1


def test_classes_are_all_that_have_a_half_weight_form():
    """A backbone that is added needs a reader."""
    from halvit_mm.halving.sources import _BACKBONES

    classes = (HaLViT, MiniDeiT, MiniSwin, HalfResNet, HalfResNeXt)
    assert set(_BACKBONES) == {cls.__name__ for cls in classes}
