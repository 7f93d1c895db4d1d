"""OpenMMLab's index of models, ``model-index.yml`` and the files that it imports.

A model that was trained here has ``Results``, those of its log; others have none, and no paper's
figure stands in for them. ``Weights`` are addresses to download from; there are none so far.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..analysis.weightless import build_without_weights
from ..engine.config_errors import load_config
from ..files import whole_file
from .entries import ENTRIES

_HALVIT = {
    "Title": "HaLViT: Half of the Weights are Enough",
    "URL": "https://openaccess.thecvf.com/content/CVPR2024W/ELVM/html/"
    "Koyun_HaLViT_Half_of_the_Weights_are_Enough_CVPRW_2024_paper.html",
}
_MINIVIT = {
    "Title": "MiniViT: Compressing Vision Transformers with Weight Multiplexing",
    "URL": "https://openaccess.thecvf.com/content/CVPR2022/html/"
    "Zhang_MiniViT_Compressing_Vision_Transformers_With_Weight_Multiplexing_CVPR_2022_paper.html",
}
#: Collections: paper, the part of the architecture that is theirs, and where the code is.
_COLLECTIONS: dict[str, tuple[dict[str, str] | None, str, str]] = {
    "HaLViT": (_HALVIT, "Tied attention and feed-forward layers", "halvit_mm/backbones/halvit.py"),
    "Half-weight ResNet": (_HALVIT, "Half-weight stages", "halvit_mm/backbones/half_resnet.py"),
    "Mini-DeiT": (_MINIVIT, "Multiplexed blocks", "halvit_mm/backbones/mini_deit.py"),
    "Mini-Swin": (_MINIVIT, "Multiplexed blocks", "halvit_mm/backbones/mini_swin.py"),
    "Dense twins": (None, "No shared weights", "halvit_mm/backbones"),
}
_OF_BACKBONE = {
    "HaLViT": "HaLViT",
    "HalfResNet": "Half-weight ResNet",
    "HalfResNeXt": "Half-weight ResNet",
    "MiniDeiT": "Mini-DeiT",
    "MiniSwin": "Mini-Swin",
}
_DATA = {"coco": "COCO 2017", "imagenet": "ImageNet-1k"}
_HEADER = "# Written by `python tools/make_model_zoo.py --index`.\n"
_INDEX = "model-index.yml"


def listed_configs(root: Path) -> dict[str, list[str]]:
    """The configs of each metafile: all for COCO and ImageNet, and those that are trained here."""
    found = {
        "configs/metafile.yml": _paths(root, (root / "configs").glob("*.py")),
        "configs/imagenet/metafile.yml": _paths(root, (root / "configs/imagenet").glob("*.py")),
    }
    for entry in ENTRIES.values():
        found.setdefault(f"{Path(entry.config).parent}/metafile.yml", []).append(entry.config)
    return found


def write_metafiles(root: Path) -> None:
    """Writes the index of the repository at ``root`` anew, from its configs and logs."""
    files = listed_configs(root)
    _write(root / _INDEX, {"Import": list(files)})
    for file, configs in files.items():
        models = [model_entry(root, config) for config in configs]
        first = file == "configs/metafile.yml"
        collections = {"Collections": [_collection(name) for name in _COLLECTIONS]}
        _write(root / file, {**(collections if first else {}), "Models": models})


def model_entry(root: Path, config: str) -> dict[str, Any]:
    """What the index says about a config's model."""
    cfg = load_config(root / config)
    name = Path(config).stem
    dense = "dense_" in name
    entry: dict[str, Any] = {
        "Name": name,
        "In Collection": "Dense twins" if dense else _OF_BACKBONE[cfg.model.backbone.type],
        "Config": config,
        "Metadata": {
            "Training Data": _training_data(name),
            "Epochs": cfg.train_cfg.max_epochs,
            **count(root, config),
        },
    }
    results = _results(root, name)
    return entry | ({"Results": results} if results else {})


def count(root: Path, config: str) -> dict[str, int]:
    """The parameters of a config's model, and of its backbone."""
    model = build_without_weights(load_config(root / config))
    return {
        "Parameters": sum(p.numel() for p in model.parameters()),
        "Backbone Parameters": sum(p.numel() for p in model.backbone.parameters()),
    }


def faults(root: Path, *, build: bool = True) -> Iterator[str]:
    """What is wrong with the index of the repository at ``root``, one sentence each.

    Args:
        root: The repository's root.
        build: Builds each model, to count its parameters.
    """
    files = _read(root / _INDEX)["Import"]
    absent = [file for file in files if not (root / file).is_file()]
    yield from (f"{_INDEX}: {file} does not exist" for file in absent)
    contents = {file: _read(root / file) for file in files if file not in absent}
    collections = [c for content in contents.values() for c in content.get("Collections", ())]
    for collection in collections:
        yield from _keys(collection, {"Name", "Metadata", "Code"}, {"Paper"})
        if not (root / collection["Code"]["URL"]).exists():
            yield f"{collection['Name']}: {collection['Code']['URL']} does not exist"
    models = [model for content in contents.values() for model in content["Models"]]
    names = [part["Name"] for part in (*models, *collections)]
    yield from (f"{name}: two have this name" for name in set(names) if names.count(name) > 1)
    for model in models:
        yield from model_faults(root, model, {c["Name"] for c in collections}, build=build)
    listed = {model["Config"] for model in models}
    needed = {config for configs in listed_configs(root).values() for config in configs}
    yield from (f"{config}: it is not listed" for config in sorted(needed - listed))


def model_faults(
    root: Path, model: dict[str, Any], collections: set[str], *, build: bool = True
) -> Iterator[str]:
    """What is wrong with one model of the index; see :func:`faults`."""
    name = model["Name"]
    yield from _keys(model, {"Name", "In Collection", "Config", "Metadata"}, {"Results"})
    if model["In Collection"] not in collections:
        yield f"{name}: there is no collection {model['In Collection']}"
    if not (root / model["Config"]).is_file():
        yield f"{name}: {model['Config']} does not exist"
    elif build:
        for what, number in count(root, model["Config"]).items():
            if model["Metadata"].get(what) != number:
                yield f"{name}: {what} are {number}, not {model['Metadata'].get(what)}"
    if model.get("Results", []) != _results(root, name):
        yield f"{name}: its Results are not those of a log in docs/results/zoo"


def models_listed(root: Path) -> list[dict[str, Any]]:
    """All models of the index of the repository at ``root``."""
    files = _read(root / _INDEX)["Import"]
    return [model for file in files for model in _read(root / file)["Models"]]


def _keys(part: dict[str, Any], needed: set[str], possible: set[str]) -> Iterator[str]:
    for key in needed - set(part):
        yield f"{part.get('Name')}: it has no {key}"
    for key in set(part) - needed - possible:
        yield f"{part.get('Name')}: {key} is not known"


def _collection(name: str) -> dict[str, Any]:
    paper, architecture, code = _COLLECTIONS[name]
    return {
        "Name": name,
        "Metadata": {"Architecture": [architecture]},
        **({"Paper": dict(paper)} if paper else {}),
        "Code": {"URL": code, "Version": f"v{__version__}"},
    }


def _training_data(name: str) -> str:
    if name in ENTRIES:
        return ENTRIES[name].dataset
    return next(data for part, data in _DATA.items() if part in name)


def _results(root: Path, name: str) -> list[dict[str, Any]]:
    """What the log of a trained model says of its published file; AP in percent, as usual there."""
    log = root / "docs/results/zoo" / f"{name}.json"
    if name not in ENTRIES or not log.is_file():
        return []
    found = json.loads(log.read_text())["metrics"]["fp16"]
    return [
        {
            "Task": task,
            "Dataset": ENTRIES[name].dataset,
            "Metrics": {metric: round(found[key] * (100 if "AP" in metric else 1), 2)},
        }
        for task, metric, key in ENTRIES[name].metrics
    ]


def _paths(root: Path, files: Iterable[Path]) -> list[str]:
    return sorted(file.relative_to(root).as_posix() for file in files)


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as temporary:
        text = yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
        temporary.write_text(_HEADER + text, encoding="utf-8")


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice, instead of a reference."""

    def ignore_aliases(self, data: Any) -> bool:
        """True: without references."""
        return True
