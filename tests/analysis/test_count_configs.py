"""Every config of the repository can be counted, and what is counted is what its name says."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import utils

from halvit_mm.analysis import (
    ModelCount,
    as_dict,
    count_configs,
    find_configs,
    report,
    summary,
    table,
)
from halvit_mm.errors import UserError
from halvit_mm.zoo.metafiles import models_listed

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [str(path.relative_to(ROOT)) for path in find_configs([ROOT / "configs"])]
LISTED = {model["Config"]: model["Metadata"] for model in models_listed(ROOT)}


@pytest.fixture(autouse=True, scope="module")
def read_indices_once() -> Iterator[None]:
    """mmengine reads a hundred files for each config that is inherited by its package's name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "load", cache(utils.load))
        yield


@cache
def count(path: str) -> ModelCount:
    ((_, result),) = count_configs([ROOT / path])
    if isinstance(result, UserError):
        raise result
    return result


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config(path):
    result = count(path)
    if re.search("[/_](dense|narrow)_", path):
        assert result.dense_twin is None
        assert result.total.parameters == result.total.naive
    elif "_teacher_" in path:  # as the student but with weights of its own for each layer
        assert result.total.parameters == result.total.naive
        assert result.total.parameters > result.dense_twin.total.parameters
    else:
        assert result.total.parameters < result.dense_twin.total.parameters
        assert result.total.parameters < result.total.naive
    sizes = {
        "configs/cifar10/": (32, 32),
        "configs/imagenet/": (384, 384) if "_384_" in path else (224, 224),
        "configs/tinyimagenet/small_": (48, 48),
        "_coco": (800, 1333),
    }
    for part, size in sizes.items():
        assert part not in path or result.input_size == size
    assert sum(stage.parameters for stage in result.stages) == result.without_head.parameters
    assert sum(stage.macs for stage in result.stages) == result.without_head.macs > 0
    if listed := LISTED.get(path):  # OpenMMLab's index of models tells the same
        assert listed["Parameters"] == result.total.parameters
        assert listed["Backbone Parameters"] == result.without_head.parameters


#: DeiT has a class token, and so is no twin of Mini-DeiT, part by part.
TWINS = [
    (path, dense)
    for path in CONFIGS
    for dense in (path.replace("half_", "dense_"), path.replace("mini_", "dense_"))
    if dense != path and dense in CONFIGS and "imagenet/dense_deit_" not in dense
]


@pytest.mark.parametrize(("half", "dense"), TWINS)
def test_the_dense_config_is_the_dense_twin(half, dense):
    assert count(half).dense_twin.parts == count(dense).parts


def test_mask_rcnn_part_by_part():
    """Parameters of mmdet's Mask R-CNN on ResNet-50, and its heads' arithmetic."""
    result = count("configs/mask_rcnn_half_resnet50_1x_coco.py")
    twin = result.dense_twin
    assert twin.total.parameters == 44_396_336
    assert result.padded_size == (800, 1344)
    assert [part.name for part in result.parts] == [
        "backbone",
        "neck",
        "rpn_head",
        "roi_head.bbox_head",
        "roi_head.mask_head",
    ]
    macs = {part.name: part.macs for part in result.parts}
    pixels = sum(-(-800 // s) * -(-1344 // s) for s in (4, 8, 16, 32, 64))
    assert macs["rpn_head"] == pixels * (256 * 256 * 9 + 256 * 3 + 256 * 12)
    layers = 256 * 49 * 1024 + 1024 * 1024 + 1024 * 81 + 1024 * 320
    assert macs["roi_head.bbox_head"] == 1000 * layers
    pixel = 4 * 256 * 256 * 9 + 256 * 256 * 4 + 4 * 256 * 80
    assert macs["roi_head.mask_head"] == 100 * 14 * 14 * pixel


def test_retinanet_head_runs_on_every_level():
    result = count("configs/retinanet_half_resnet50_1x_coco.py")
    assert result.dense_twin.total.parameters == 37_968_692
    head = result.parts[-1]
    pixels = sum(-(-800 // s) * -(-1344 // s) for s in (8, 16, 32, 64, 128))
    assert head.macs == pixels * 256 * 9 * (8 * 256 + 9 * 80 + 9 * 4)
    assert head.naive == head.parameters


# Reporting

SMALL = """
default_scope = "mmpretrain"
model = dict(
    type="ImageClassifier",
    backbone=dict(type="HaLViT", arch=dict(dim={dim}, depth=3, num_heads=1)),
    head=dict(type="LinearClsHead", num_classes=9, in_channels={dim}),
)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two good configs, a wrong one between them, and a base that is none of its own."""
    for name, dim in dict(a=16, c=32).items():
        (tmp_path / f"{name}.py").write_text(SMALL.format(dim=dim))
    (tmp_path / "b.py").write_text("model = dict(type='Absent', backbone=dict())")
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "d.py").write_text(SMALL.format(dim=16))
    return tmp_path


def test_find_configs(folder):
    a, b, c = (folder / f"{name}.py" for name in "abc")
    assert find_configs([folder]) == [a, b, c]
    assert find_configs([c, folder, a]) == [c, a, b]
    assert find_configs([folder / "_base_"]) == [folder / "_base_" / "d.py"]
    assert find_configs(["absent.py"]) == [Path("absent.py")]
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: there are no configs"):
        find_configs([a, folder / "empty"])


def test_a_wrong_config_does_not_lose_the_others(folder):
    results = dict(count_configs([*find_configs([folder]), "absent.py"]))
    first, wrong, last = (str(folder / f"{name}.py") for name in "abc")
    # Patches with their bias, class token, positions, final norm, and three blocks.
    embeddings = 768 * 16 + 16 + 16 + 197 * 16 + 2 * 16
    blocks = 3 * (6 * 16**2 + 13 * 16)
    assert results[first].without_head.parameters == embeddings + blocks
    assert str(results[wrong]).startswith(f"{wrong}: model (Absent): ")
    assert isinstance(results[last], ModelCount)
    assert "absent.py: there is no such config" in str(results["absent.py"])


def test_json_says_what_the_tables_say(folder, capsys):
    out = folder / "new" / "counts.json"
    assert not report([folder], json_file=str(out))
    printed, errors = capsys.readouterr()
    content = json.loads(out.read_text())
    (error,) = content["errors"]
    assert error["config"] == str(folder / "b.py")
    assert errors == f"error: {error['error']}\n"

    *tables, total = [_rows(text) for text in printed.split("\n\n") if text.startswith("|")]
    entries = content["configs"]
    assert [entry["config"] for entry in entries] == [str(folder / "a.py"), str(folder / "c.py")]
    for entry, rows in zip(entries, tables, strict=True):
        assert f"{entry['config']}: ImageClassifier on HaLViT, 224 × 224\n" in printed
        stem, *blocks, norm = entry["stages"]
        expected = {part["name"]: part for part in entry["parts"]} | {
            "· stem (cls_token, pos_embed, patch_embed)": stem,
            "· blocks.0 … 2, each": blocks[0],
            "· norm": norm,
            "total": entry,
        }
        del rows["part"]
        assert rows == {
            title: [f"{n['parameters']:,}", f"{n['naive']:,}", f"{n['macs'] / 1e9:.3f}"]
            for title, n in expected.items()
        }
        assert [block["macs"] for block in blocks] == [blocks[0]["macs"]] * 3
        twin = entry["dense_twin"]
        assert twin["parameters"] == entry["naive"]
        assert entry["ratio"] == entry["parameters"] / twin["parameters"]
        assert total[entry["config"]] == [
            f"{entry['parameters_without_head']:,}",
            f"{entry['naive_without_head']:,}",
            f"{entry['ratio_without_head']:.3f}",
            f"{entry['parameters']:,}",
            f"{entry['naive']:,}",
            f"{entry['ratio']:.3f}",
            f"{entry['macs'] / 1e9:.3f}",
            "224 × 224",
            f"{entry['checkpoint_bytes'] / 1e6:.1f} MB",
        ]
        assert f"backbone {entry['ratio_without_head']:.3f}, total {entry['ratio']:.3f}" in printed


def _rows(table: str) -> dict[str, list[str]]:
    """The cells of a Markdown table by the first one of their row."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {first: others for first, *others in rows if not first.startswith("---")}


def test_json_alone(folder, capsys):
    assert report([folder / "a.py"], json_file="-", size=(32, 48))
    (entry,) = json.loads(capsys.readouterr().out)["configs"]
    assert entry["input_size"] == [32, 48]
    # Patches, and three blocks on 2 × 3 patches and a class token.
    assert entry["macs_without_head"] == 6 * 768 * 16 + 3 * (7 * 12 * 256 + 2 * 49 * 16)


def test_options_reach_every_config(folder):
    options = {"model.backbone.tied": False}
    for _, result in count_configs([folder / "a.py", folder / "c.py"], options=options):
        assert result.dense_twin is None
        assert "dense twin: –" in table("x", result)
        assert summary({"x": result}).splitlines()[-1].split("|")[4].strip() == "–"
        assert as_dict(result)["dense_twin"] is None


def test_a_json_file_that_cannot_be_written(folder):
    with pytest.raises(UserError, match=r"--json .*: this is a folder"):
        report([folder / "a.py"], json_file=str(folder))
    with pytest.raises(UserError, match=r"--json .*cannot write there"):
        report([folder / "a.py"], json_file=str(folder / "a.py" / "x.json"))
