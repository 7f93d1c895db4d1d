"""Converting published checkpoints: what fits strictly, and what is refused with a reason."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS
from official_half_cnn import random_state_dict
from processes import run
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50, resnet101, resnext50_32x4d, resnext101_32x8d

from halvit_mm.backbones import HalfResNet, HalfResNeXt
from halvit_mm.checkpoints import convert
from halvit_mm.checkpoints.conversion import convert_file, read_source
from halvit_mm.errors import UserError

StateDict = dict[str, Tensor]

OFFICIAL = {
    "resnet": dict(depth=50),
    "resnext": dict(depth=101, groups=32, base_width=8, num_classes=1000),
}


def official(design: str, *, narrow: bool = True, **options) -> StateDict:
    """Official-format weights, by default of a sixteenth of the size."""
    options = {**OFFICIAL[design], **options}
    if narrow:
        options |= dict(base=16, depth=50)
        options |= dict(groups=16, base_width=16) if design == "resnext" else {}
    weights = random_state_dict(design, **options)
    return {name: v.float() if v.is_floating_point() else v for name, v in weights.items()}


def shapes_of(make: Callable[[], nn.Module]) -> StateDict:
    """A model's names and shapes without memory for weights."""
    with torch.device("meta"):
        return dict(make().state_dict())


def classifier(root: Path, config: str, options: dict) -> nn.Module:
    """The classifier of one of the repository's configs, without memory for weights."""
    import mmpretrain.models  # noqa: F401

    cfg = Config.fromfile(root / config)
    cfg.merge_from_dict(options)
    with torch.device("meta"):
        return MODELS.build({"_scope_": "mmpretrain", **cfg.model})


def load_strictly(model: nn.Module, weights: StateDict) -> tuple[list[str], list[str]]:
    """Loads with no shape but the right ones; returns the missing and the unexpected names."""
    return tuple(model.load_state_dict(weights, strict=False, assign=True))


# What is recognised, and where it fits


@pytest.mark.parametrize(
    ("design", "total", "missing"),
    [("resnet", 15_515_176, ["head.fc.weight", "head.fc.bias"]), ("resnext", 25_876_776, [])],
)
def test_official_weights_load_strictly_into_the_configs_model(root, design, total, missing):
    weights = official(design, narrow=False)
    conversion = read_source(weights)
    assert conversion.cfg_options == {} and conversion.left_out == {} and conversion.share == 1
    model = classifier(root, conversion.config, {})
    assert sum(p.numel() for p in model.parameters()) == total
    assert load_strictly(model, conversion.state_dict) == (missing, [])
    # The very same tensors under new names.
    given = {value.data_ptr() for value in weights.values()}
    assert {value.data_ptr() for value in conversion.state_dict.values()} == given


@pytest.mark.parametrize("design", ["resnet", "resnext"])
@pytest.mark.parametrize("stem", [("stem.0", "stem.1"), ("conv1", "bn1")])
@pytest.mark.parametrize("classes", [None, 10])
def test_official_files_may_differ_in_stem_and_head(design, stem, classes):
    weights = official(design, stem=stem, num_classes=classes)
    converted = convert(weights)
    assert torch.equal(converted["backbone.conv1.weight"], weights[f"{stem[0]}.weight"])
    assert torch.equal(converted["backbone.bn1.running_var"], weights[f"{stem[1]}.running_var"])
    assert ("head.fc.weight" in converted) == (classes is not None)
    assert len(converted) == len(weights)


@pytest.mark.parametrize("design", ["resnet", "resnext"])
def test_w_may_be_a_parameter_or_a_convolutions(design):
    weights = official(design)
    renamed = {name.replace("convp", "convp.weight"): value for name, value in weights.items()}
    assert convert(renamed).keys() == convert(weights).keys()
    assert torch.equal(convert(renamed)["backbone.layer4.weight"], weights["layer4.convp"])


def test_old_files_without_counts_of_batches(root):
    weights = {k: v for k, v in official("resnet").items() if "num_batches" not in k}
    conversion = read_source(weights)
    counts = [v for k, v in conversion.state_dict.items() if k.endswith("num_batches_tracked")]
    assert len(counts) == 57 and all(count == 0 for count in counts)
    model = classifier(root, conversion.config, conversion.cfg_options)
    assert load_strictly(model, conversion.state_dict)[1] == []


@pytest.mark.parametrize("wrap", ["state_dict", "model", None])
def test_wrappers_and_prefixes_are_looked_through(wrap):
    weights = {f"module.{name}": value for name, value in official("resnet").items()}
    converted = convert({wrap: weights, "epoch": 3} if wrap else weights)
    assert converted.keys() == convert(official("resnet")).keys()


@pytest.mark.parametrize(
    ("make", "config", "options"),
    [
        (resnet50, "half_resnet50", {}),
        (resnet101, "half_resnet50", {"model.backbone.depth": 101}),
        (resnext101_32x8d, "half_resnext101", {}),
        (
            resnext50_32x4d,
            "half_resnext101",
            {"model.backbone.depth": 50, "model.backbone.base_width": 4},
        ),
    ],
)
@pytest.mark.parametrize("tied_stages", [(3, 4), (4,), ()])
def test_dense_weights_fit_the_stem_and_dense_stages(root, make, config, options, tied_stages):
    conversion = read_source(shapes_of(make), tied_stages=tied_stages)
    if tied_stages == (4,):
        options = {**options, "model.backbone.tied_stages": (4,)}
    if tied_stages == ():
        config = config.replace("half", "dense")
    assert conversion.config == f"configs/imagenet/{config}_imagenet.py"
    assert conversion.cfg_options == options
    model = classifier(root, conversion.config, conversion.cfg_options)
    missing, unexpected = load_strictly(model, conversion.state_dict)
    assert unexpected == []
    fresh = tuple(f"backbone.layer{stage}." for stage in tied_stages)
    expected = (*fresh, "head.") if tied_stages else ()
    assert all(name.startswith(expected) for name in missing)
    assert ("head.fc" in conversion.fresh) == bool(tied_stages)
    assert {name.split(".")[1] for name in missing} == {
        part.removeprefix("head.") for part in conversion.fresh
    }


@torch.no_grad()
@pytest.mark.parametrize("make", [resnet50, resnext50_32x4d])
def test_the_dense_twin_computes_what_torchvision_does(make):
    generator = torch.Generator().manual_seed(0)
    theirs = make().double().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    conversion = read_source(theirs.state_dict(), tied_stages=())
    backbone = MODELS.build(conversion.backbone).double().eval()
    weights = conversion.state_dict
    backbone.load_state_dict(
        {k.removeprefix("backbone."): v for k, v in weights.items() if "head." not in k}
    )
    x = torch.randn(2, 3, 64, 64, generator=generator).double()
    logits = nn.functional.linear(
        backbone(x)[-1].mean((2, 3)), weights["head.fc.weight"], weights["head.fc.bias"]
    )
    expected = theirs(x)
    assert (logits - expected).abs().max() < 1e-9 * expected.abs().max()


def test_a_classifier_of_mmpretrain_gives_its_head_to_the_dense_twin(root):
    model = classifier(root, "configs/imagenet/dense_resnet50_imagenet.py", {})
    theirs = MODELS.build(
        dict(
            type="ImageClassifier",
            _scope_="mmpretrain",
            backbone=dict(type="ResNet", depth=50),
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="LinearClsHead", num_classes=1000, in_channels=2048),
        )
    )
    weights = convert(dict(theirs.state_dict()), tied_stages=())
    assert load_strictly(model, weights) == ([], [])
    partial = read_source(dict(theirs.state_dict()))
    assert partial.fresh == ("layer3", "layer4", "head.fc")
    assert partial.left_out == {"layer3": 114, "layer4": 60, "head": 2}


def test_of_a_detector_the_backbone_is_taken_and_the_rest_named():
    import mmdet.models  # noqa: F401
    from mmengine.hub import get_config

    cfg = get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py").model
    cfg.backbone.init_cfg = None
    with torch.device("meta"):
        detector = MODELS.build({"_scope_": "mmdet", **cfg})
        twin = HalfResNet(tied_stages=())
    conversion = read_source(dict(detector.state_dict()), tied_stages=())
    assert conversion.source == "ResNet-50 in OpenMMLab's names"
    assert conversion.left_out == {"neck": 16, "bbox_head": 20}
    assert "left out: neck (16 tensors), bbox_head (20 tensors)" in conversion.summary()
    assert conversion.fresh == ("head.fc",)
    weights = conversion.state_dict.items()
    twin.load_state_dict({k.removeprefix("backbone."): v for k, v in weights}, assign=True)
    # The backbone alone has torchvision's names.
    alone = read_source(dict(detector.backbone.state_dict()), tied_stages=())
    assert alone.state_dict.keys() == conversion.state_dict.keys()


def test_a_narrow_model_comes_with_the_options_it_needs(root):
    weights = official("resnext", num_classes=10)
    conversion = read_source(weights)
    assert conversion.config == "configs/imagenet/half_resnext101_imagenet.py"
    model = classifier(root, conversion.config, conversion.cfg_options)
    assert load_strictly(model, conversion.state_dict) == ([], [])


# What is refused


def drop(name: str) -> Callable[[StateDict], None]:
    return lambda weights: weights.pop(name)


def narrow(name: str) -> Callable[[StateDict], None]:
    return lambda weights: weights.update({name: weights[name][:3]})


def rename(old: str, new: str) -> Callable[[StateDict], None]:
    def change(weights: StateDict) -> None:
        for name in [name for name in weights if name.startswith(old)]:
            weights[new + name.removeprefix(old)] = weights.pop(name)

    return change


def take(part: str, other: str) -> Callable[[StateDict], None]:
    """Exchanges a part for that of another model."""

    def change(weights: StateDict) -> None:
        for name in [name for name in weights if name.startswith(part)]:
            del weights[name]
        donor = shapes_of(resnet50) if other == "dense" else official(other)
        weights.update({name: v for name, v in donor.items() if name.startswith(part)})

    return change


CHANGES = [
    ("resnet", drop("layer3.convp"), r"missing layer3\.convp\b"),
    ("resnet", drop("layer3.final_bns.2.weight"), r"missing layer3\.final_bns\.2\.weight"),
    ("resnet", drop("stem.1.running_var"), r"missing stem\.1\.running_var"),
    ("resnet", drop("stem.0.weight"), r"missing conv1\.weight"),
    ("resnet", drop("layer1.0.conv2.weight"), r"missing layer1\.0\.conv2\.weight"),
    ("resnext", drop("layer4.channel_adapter.weight"), r"missing layer4\.channel_adapter\.weight"),
    ("resnext", drop("layer3.bn_pre_list.5.bias"), r"missing layer3\.bn_pre_list\.5\.bias"),
    ("resnext", drop("fc.weight"), r"missing fc\.weight"),
    ("dense", drop("layer4.2.conv3.weight"), r"missing layer4\.2\.conv3\.weight"),
    ("dense", drop("fc.bias"), r"missing fc\.bias"),
    ("resnet", narrow("layer3.convp"), r"layer3\.convp is \(3, 256, 1, 1\), not \(64, 256, 1, 1\)"),
    ("resnext", narrow("fc.bias"), r"of a wrong width: fc\.(weight|bias) is"),
    ("resnext", narrow("layer4.conv2_list.0.weight"), r"layer4\.conv2_list\.0\.weight is \(3, "),
    ("dense", narrow("layer1.0.conv2.weight"), r"layer1\.0\.conv2\.weight is \(3, 64, 3, 3\), not"),
    ("dense", narrow("layer1.0.conv3.weight"), r"of a wrong width: .* and \d+ more"),
    ("dense", narrow("conv1.weight"), r"bn1\.weight is \(64,\), not \(3,\)"),
    (
        "dense",
        lambda weights: weights.update({"layer1.0.conv2.weight": torch.ones(64)}),
        r"layer1\.0\.conv2\.weight is \(64,\), no convolution's shape",
    ),
    ("resnet", rename("stem.0", "foo"), r"missing conv1\.weight"),
    (
        "resnet",
        lambda weights: weights.update({"layer3.foo.weight": torch.ones(1)}),
        r"unknown layer3\.foo\.weight",
    ),
    (
        "dense",
        lambda weights: weights.update({"layer2.0.conv2_offset.bias": torch.ones(1)}),
        r"unknown layer2\.0\.conv2_offset\.bias",
    ),
    ("resnet", rename("layer4.final_bns.2.", "layer4.final_bns.7."), r"blocks 3/4/6/8|3/4/6/8"),
    ("dense", rename("layer4.2.", "layer5.2."), r"3/4/6/2 blocks, where ResNet-50"),
    (
        "resnet",
        take("layer4", "resnext"),
        r"mix families, HaLViT's ResNet \(layer3\..*HaLViT's ResNeXt \(layer4\.",
    ),
    (
        "resnext",
        take("layer4", "resnet"),
        r"mix families, HaLViT's ResNeXt \(layer3\..*HaLViT's ResNet \(layer4\.",
    ),
    ("resnet", take("layer4", "dense"), r"mix families, HaLViT's ResNet .*dense ResNet \(layer4"),
    ("dense", take("layer4", "resnet"), r"mix families, a dense ResNet \(layer3.*HaLViT's ResNet"),
    ("dense", take("layer3", "resnext"), r"mix families, .*HaLViT's ResNeXt \(layer3"),
    (
        "dense",
        lambda weights: weights.update({"layer3.final_bns.0.bias": torch.ones(1)}),
        r"mix families, .*\(layer3\.final_bns\.0\.bias\)",
    ),
]


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    CHANGES,
    ids=[f"{family}-{i}" for i, (family, *_) in enumerate(CHANGES)],
)
def test_refused_with_the_sources_names_and_a_cure(family, change, reason):
    if family == "dense":
        weights = shapes_of(resnet50)
    else:
        weights = official(family, num_classes=10 if family == "resnext" else None)
    convert(weights)
    change(weights)
    with pytest.raises(UserError, match=reason) as caught:
        convert(weights)
    assert re.search(r"\b(give|download)\b", str(caught.value).lower())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"blocks.0.attn.weight": torch.ones(1)}, r"\(blocks.0.attn.weight, …\) are of no known"),
        ({"a": torch.ones(1)}, r"known are: ResNets and ResNeXts of HaLViT's authors, torchvision"),
        ({}, "there are no weights"),
        (shapes_of(resnet18), "two convolutions, as in ResNet-18"),
    ],
)
def test_other_models_are_refused(weights, reason):
    with pytest.raises(UserError, match=reason):
        convert(weights)


@pytest.mark.parametrize("family", [HalfResNet, HalfResNeXt])
def test_converted_weights_are_known_as_such(family):
    weights = {f"backbone.{name}": value for name, value in shapes_of(family).items()}
    with pytest.raises(UserError, match="have this project's names already"):
        convert(weights)


def test_tied_stages_that_cannot_be_had():
    with pytest.raises(UserError, match="there is no stage 5; choose from 1, 2, 3 and 4"):
        convert(shapes_of(resnet50), tied_stages=(4, 5))
    with pytest.raises(UserError, match=r"tied_stages=\(\) does not fit the ResNet-50 in HaLViT's"):
        convert(official("resnet"), tied_stages=())


# Files


@pytest.fixture
def official_file(tmp_path) -> Path:
    torch.save(official("resnet"), tmp_path / "official.pth")
    return tmp_path / "official.pth"


def test_file_holds_weights_and_facts_only(tmp_path, official_file):
    weights = torch.load(official_file)
    large = torch.zeros(100_000)
    large[:64] = weights["layer3.final_bns.0.bias"][:64]
    padded = torch.zeros(10, len(weights["layer3.final_bns.0.bias"]))
    padded[0] = weights["layer3.final_bns.0.bias"]
    weights["layer3.final_bns.0.bias"] = padded[0]  # a view of a larger storage
    torch.save({"model": weights, "optimizer": {"state": large}}, official_file)
    convert_file(official_file, tmp_path / "new" / "out.pth")
    content = torch.load(tmp_path / "new" / "out.pth", weights_only=True)
    assert sorted(content) == ["meta", "state_dict"]
    meta = content["meta"]
    assert meta["source"] == "ResNet-50 in HaLViT's names"
    assert meta["backbone"]["type"] == "HalfResNet"
    assert meta["config"] == "configs/imagenet/half_resnet50_imagenet.py"
    assert meta["cfg_options"]["model.backbone.base_channels"] == 16
    assert meta["tensors"] == len(content["state_dict"]) == 324
    assert meta["fresh"] == ["head.fc"] and meta["left_out"] == {}
    storage = content["state_dict"]["backbone.layer3.blocks.0.bn3.bias"].untyped_storage()
    assert storage.nbytes() == 4 * 256
    # The facts suffice to build the backbone.
    backbone = MODELS.build(meta["backbone"])
    weights = content["state_dict"].items()
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in weights})


def test_the_same_input_gives_the_same_bytes(tmp_path, official_file):
    convert_file(official_file, tmp_path / "a.pth")
    convert_file(official_file, tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("official.pth", r"official\.pth: this is the source itself"),
        ("link.pth", r"link\.pth: this is the source itself"),
        ("there.pth", r"there\.pth: this exists already; remove it or"),
        ("folder", r"folder: this exists already"),
        ("there.pth/out.pth", r"there\.pth/out\.pth: cannot write there"),
    ],
)
def test_targets_that_are_refused_stay_as_they_are(tmp_path, official_file, target, reason):
    (tmp_path / "link.pth").symlink_to(official_file)
    (tmp_path / "there.pth").write_text("precious")
    (tmp_path / "folder").mkdir()
    before = listing(tmp_path)
    with pytest.raises(UserError, match=reason):
        convert_file(official_file, tmp_path / target)
    assert listing(tmp_path) == before


def test_a_source_that_is_refused_leaves_no_folder_either(tmp_path, official_file):
    weights = torch.load(official_file)
    del weights["layer3.convp"]
    torch.save(weights, official_file)
    before = listing(tmp_path)
    with pytest.raises(
        UserError, match=r"official\.pth: the weights do not make a whole ResNet-50"
    ):
        convert_file(official_file, tmp_path / "new" / "out.pth")
    assert listing(tmp_path) == before


def test_nothing_partial_is_left_when_writing_fails(tmp_path, official_file, monkeypatch):
    def full(content, file):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    before = listing(tmp_path)
    with pytest.raises(OSError, match="no space"):
        convert_file(official_file, tmp_path / "out.pth")
    assert listing(tmp_path) == before


# The command


def command(root: Path, *arguments: str) -> list:
    return [sys.executable, root / "tools/convert_checkpoint.py", *arguments]


def test_command_converts(tmp_path, root, official_file):
    status, output, errors = run(command(root, "official.pth", "out.pth"), tmp_path)
    assert status == 0, errors
    lines = output.splitlines()
    assert lines[0] == "ResNet-50 in HaLViT's names: 324 tensors"
    assert lines[1].startswith("fits configs/imagenet/half_resnet50_imagenet.py --cfg-options ")
    assert lines[-1] == "the weights are in out.pth"
    converted = torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"]
    expected = convert(official("resnet"))
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], value) for name, value in expected.items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["official.pth", "out.pth"]


def call_tool(root: Path, monkeypatch, *arguments: str) -> int:
    """Runs the command in this process and returns its status."""
    monkeypatch.syspath_prepend(root / "tools")
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(root / "tools/convert_checkpoint.py"), run_name="__main__")
    return caught.value.code


def test_a_backbone_starts_from_dense_weights_as_the_command_says(
    tmp_path, root, monkeypatch, capsys
):
    theirs = resnet50()
    torch.save(theirs.state_dict(), tmp_path / "dense.pth")
    target = str(tmp_path / "start.pth")
    assert call_tool(root, monkeypatch, str(tmp_path / "dense.pth"), target) == 0
    output = capsys.readouterr().out
    assert "freshly initialised: layer3, layer4, head.fc\n" in output
    init_cfg = eval(re.search(r"init_cfg=(dict\(.*?\))", output)[1])
    assert init_cfg == dict(type="PretrainedBackbone", checkpoint=target, min_fraction=0.1)
    backbone = HalfResNet(init_cfg=init_cfg)
    own = backbone.layer3.weight.clone()
    backbone.init_weights()
    assert torch.equal(backbone.conv1.weight, theirs.conv1.weight)
    assert torch.equal(backbone.layer2[3].conv3.weight, theirs.layer2[3].conv3.weight)
    assert torch.equal(backbone.layer3.weight, own)


@pytest.mark.parametrize("tied_stages", [(), (4,)])
def test_command_takes_stages_and_prints_options_as_tools_read_them(
    tmp_path, root, monkeypatch, capsys, tied_stages
):
    with torch.device("meta"):
        weights = resnet50().state_dict()
    torch.save(
        {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in weights.items()}, tmp_path / "d.pth"
    )
    source, target = str(tmp_path / "d.pth"), str(tmp_path / "out.pth")
    numbers = [str(stage) for stage in tied_stages]
    assert call_tool(root, monkeypatch, source, target, "--tied-stages", *numbers) == 0
    content = torch.load(target)
    assert content["meta"]["backbone"]["tied_stages"] == tied_stages
    assert ("head.fc.weight" in content["state_dict"]) == (tied_stages == ())
    if tied_stages:
        assert "--cfg-options 'model.backbone.tied_stages=(4,)'" in capsys.readouterr().out
        assert DictAction._parse_iterable("(4,)") == (4,)


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
        (
            lambda path: torch.save({"vit": torch.ones(3)}, path),
            "the weights (vit, …) are of no known model",
        ),
        (lambda path: path.unlink(), "there is no such checkpoint"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, official_file, capsys, spoil, reason):
    spoil(official_file)
    before = listing(tmp_path)
    with pytest.raises(UserError, match=re.escape(f"{official_file}: {reason}")):
        convert_file(official_file, tmp_path / "new" / "out.pth")
    assert listing(tmp_path) == before
    assert capsys.readouterr().out == ""  # of the code in the pickle


def test_command_refuses_in_one_line(tmp_path, root, official_file):
    torch.save({**torch.load(official_file), "x": RunsCode()}, official_file)
    before = listing(tmp_path)
    status, output, errors = run(command(root, "official.pth", "new/out.pth"), tmp_path)
    assert (status, output) == (2, "")
    assert errors.startswith("error: official.pth: loading would run code (")
    assert errors.count("\n") == 1
    assert listing(tmp_path) == before
