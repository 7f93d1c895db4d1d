"""OpenMMLab's index of models is true.

That its parameters are those of the configs, each by each, is tested in ``test_count_configs.py``.
"""

import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import yaml
from mmengine.config import utils

from halvit_mm.zoo.entries import ENTRIES
from halvit_mm.zoo.metafiles import faults, listed_configs, model_entry, model_faults, models_listed

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/mask_rcnn_mini_swin_1x_coco.py"


@pytest.fixture(autouse=True, scope="module")
def read_indices_once() -> Iterator[None]:
    """mmengine reads a hundred files for each config that is inherited by its package's name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "load", cache(utils.load))
        yield


@pytest.fixture(scope="module")
def collections() -> set[str]:
    content = yaml.safe_load((ROOT / "configs/metafile.yml").read_text())
    return {collection["Name"] for collection in content["Collections"]}


@pytest.fixture
def copy(tmp_path) -> Path:
    """A repository that can be spoilt."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(ROOT / "docs/results/zoo", tmp_path / "docs/results/zoo")
    shutil.copy(ROOT / "model-index.yml", tmp_path)
    (tmp_path / "halvit_mm").symlink_to(ROOT / "halvit_mm")
    return tmp_path


def test_the_index_of_this_repository():
    assert list(faults(ROOT, build=False)) == []


def test_all_models_are_listed():
    """Those for COCO and ImageNet, and those trained here."""
    listed = {model["Config"] for model in models_listed(ROOT)}
    for folder in ("configs", "configs/imagenet"):
        for config in (ROOT / folder).glob("*.py"):
            assert config.relative_to(ROOT).as_posix() in listed
    assert {entry.config for entry in ENTRIES.values()} <= listed
    assert len(listed) == sum(map(len, listed_configs(ROOT).values())) > 60


def test_a_model_of_the_index(collections):
    """What is written of a model is what is read there, and its counts are right."""
    (model,) = (model for model in models_listed(ROOT) if model["Config"] == CONFIG)
    assert model == model_entry(ROOT, CONFIG)
    assert model["In Collection"] == "Mini-Swin"
    assert model["Metadata"]["Backbone Parameters"] == 11_234_109
    assert list(model_faults(ROOT, model, collections)) == []
    wrong = deepcopy(model)
    wrong["Metadata"]["Parameters"] += 1
    (fault,) = model_faults(ROOT, wrong, collections)
    assert "Parameters are 31508013, not 31508014" in fault


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Config: configs/mask_rcnn_halvit_1x_coco.py", "Config: configs/a.py", "not exist"),
        ("- Name: retinanet_halvit_1x_coco", "- Name: HaLViT", "HaLViT: two have this name"),
        ("In Collection: Mini-DeiT", "In Collection: ViT", "there is no collection ViT"),
        ("URL: halvit_mm/backbones/halvit.py", "URL: halvit_mm/a.py", "a.py does not exist"),
        ("  Metadata:\n    Training Data", "  Weights: a\n  Metadata:\n    Training Data",
         "Weights is not known"),
        (
            "  Config: configs/mask_rcnn_halvit_1x_coco.py\n",
            "  Config: configs/mask_rcnn_halvit_1x_coco.py\n"
            "  Results: [{Task: Object Detection, Dataset: COCO, Metrics: {box AP: 35.3}}]\n",
            "mask_rcnn_halvit_1x_coco: its Results are not those of a log",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(copy, old, new, said):
    file = copy / "configs/metafile.yml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert any(said in fault for fault in faults(copy, build=False))


def test_results_are_those_of_the_logs(copy):
    """A figure that differs from the log is found, and one whose log is gone."""
    logs = sorted((copy / "docs/results/zoo").glob("*.json"))
    assert logs
    facts = json.loads(logs[0].read_text())
    (metric, *_) = [key for _, _, key in ENTRIES[logs[0].stem].metrics]
    facts["metrics"]["fp16"][metric] += 0.01
    logs[0].write_text(json.dumps(facts))
    logs[-1].unlink()
    said = list(faults(copy, build=False))
    assert {fault.split(":")[0] for fault in said} == {logs[0].stem, logs[-1].stem}


def test_a_new_config_must_be_listed(copy):
    shutil.copy(copy / CONFIG, copy / "configs/mask_rcnn_new_1x_coco.py")
    (fault,) = faults(copy, build=False)
    assert fault == "configs/mask_rcnn_new_1x_coco.py: it is not listed"


def test_a_file_of_the_index_is_gone(copy):
    (copy / "configs/digits/metafile.yml").unlink()
    said = list(faults(copy, build=False))
    assert "model-index.yml: configs/digits/metafile.yml does not exist" in said
