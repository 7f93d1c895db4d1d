"""Damaged, wrong and hostile checkpoints through every loader and converter.

Each gives one sentence or the weights whole; no code in them runs, and neither memory nor time
grows with what they claim.
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_pickles import Calls, code, oversized
from mmengine.runner.checkpoint import CheckpointLoader
from mutated_files import (
    REFUSED,
    WHOLE,
    Mutation,
    Weights,
    damaged,
    no_files,
    rebuilt,
    saved,
    watched,
)
from small_minivit import ours, small_deit
from small_models import save_initial
from strange_checkpoints import strange
from teachers import VIT, make_teacher
from tiny_runs import CLASSES, classifier_config, make_folders

from halvit_mm.checkpoints import convert, load_backbone, read_state_dict, to_official
from halvit_mm.checkpoints.conversion import convert_file, export_file
from halvit_mm.checkpoints.publish import publish
from halvit_mm.checkpoints.reading import check_file, read_checkpoint, read_meta
from halvit_mm.distillation.teacher import Teacher
from halvit_mm.errors import UserError
from halvit_mm.halving.progress import Progress
from halvit_mm.halving.sources import read_dense
from halvit_mm.inference import load_model

OPTIONS = dict(arch=dict(dim=16, depth=3, num_heads=2), img_size=32, patch_size=8, mlp_ratio=3.0)
#: What takes long is done for one file in so many.
SELDOM = 6

Loader = Callable[[Path], Weights | None]


class Loaders:
    """Everything that reads checkpoints, by the kind of model that it is for.

    Each gives the weights as they were read, or None where it changes them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = classifier_config(folder / "config.py", make_folders(folder / "data"))
        save_initial(self.config, folder / "own.pth", classes=CLASSES)
        torch.manual_seed(0)
        self.teacher = make_teacher(folder, VIT)
        self.weights = {
            "own": read_state_dict(folder / "own.pth"),
            "dense": read_state_dict(self.teacher["checkpoint"]),
            "minivit": ours(small_deit()),
        }
        self.half = dict(type="HaLViT", **OPTIONS)
        self.own_backbone = load_model(self.config, folder / "own.pth").model.backbone

    def of(self, kind: str) -> dict[str, tuple[Loader, int]]:
        """The loaders and how often they are to be used."""
        always: dict[str, Loader] = {
            "read_checkpoint": lambda path: _weights_in(read_checkpoint(path)),
            "read_state_dict": read_state_dict,
            "mmengine": self._mmengine,
            "read_meta": self._meta,
            "check_file": lambda path: check_file(path, contents=True),
            "publish": self._publish,
        }
        special: dict[str, dict[str, Loader]] = {
            "own": {"load_backbone": self._backbone, "Progress": self._progress},
            "dense": {"convert": self._convert, "read_dense": self._dense},
            "minivit": {"export": self._export},
        }
        seldom = {"own": {"load_model": self._model}, "dense": {"Teacher": self._teacher}}
        return {
            **{name: (load, 1) for name, load in {**always, **special[kind]}.items()},
            **{name: (load, SELDOM) for name, load in seldom.get(kind, {}).items()},
        }

    def _mmengine(self, path: Path) -> Weights:
        return _weights_in(CheckpointLoader.load_checkpoint(str(path), "cpu", logger="silent"))

    def _meta(self, path: Path) -> None:
        assert isinstance(read_meta(path), dict)

    def _new(self, suffix: str = ".pth") -> Path:
        target = self.folder / f"written{suffix}"
        target.unlink(missing_ok=True)
        return target

    def _publish(self, path: Path) -> Weights:
        written = publish(path, self._new())
        try:
            return torch.load(written, weights_only=True)["state_dict"]
        finally:
            written.unlink()

    def _convert(self, path: Path) -> None:
        convert_file(path, target := self._new(), num_heads=2)
        found = torch.load(target, weights_only=True)["state_dict"]
        assert _same(found, convert(read_state_dict(path), num_heads=2))

    def _export(self, path: Path) -> None:
        export_file(path, target := self._new())
        found = torch.load(target, weights_only=True)["model"]
        assert _same(found, to_official(read_state_dict(path)).state_dict)

    def _dense(self, path: Path) -> None:
        backbone = read_dense(path, self.half).backbone
        assert all(value.isfinite().all() for value in backbone.state_dict().values())

    def _backbone(self, path: Path) -> None:
        report = load_backbone(self.own_backbone, path)
        own, given = self.own_backbone.state_dict(), _backbone_part(read_state_dict(path))
        assert own.keys() == {*report.loaded, *report.resized, *report.missing, *report.mismatched}
        assert all(torch.equal(own[name], given[name].to(own[name])) for name in report.loaded)

    def _model(self, path: Path) -> None:
        own, given = load_model(self.config, path).model.state_dict(), read_state_dict(path)
        assert own.keys() == given.keys()
        assert all(torch.equal(value, given[name].to(value)) for name, value in own.items())

    def _teacher(self, path: Path) -> None:
        from mmpretrain.models import ClsDataPreprocessor

        Teacher(config=self.teacher["config"], checkpoint=str(path)).load(ClsDataPreprocessor())

    def _progress(self, path: Path) -> None:
        partial = self.folder / "target.pth.partial"
        if path.is_file() and path.resolve().parent == path.parent:
            partial.write_bytes(path.read_bytes())
            Progress.of(self.folder / "target.pth", "key", self.own_backbone)


def _weights_in(checkpoint: dict) -> Weights | None:
    weights = checkpoint.get("state_dict", checkpoint)
    return weights if isinstance(weights, dict) else None


def _backbone_part(weights: Weights) -> Weights:
    part = {n.removeprefix("backbone."): v for n, v in weights.items() if n[:9] == "backbone."}
    return part or weights


def _same(found: Weights, expected: Weights) -> bool:
    return found.keys() == expected.keys() and all(
        value.dtype == expected[name].dtype and torch.equal(value, expected[name])
        for name, value in found.items()
    )


@pytest.fixture(scope="module")
def loaders(tmp_path_factory) -> Loaders:
    return Loaders(tmp_path_factory.mktemp("loaders"))


def faults(
    mutations: Iterator[Mutation], loaders: Loaders, kind: str, canary: Path
) -> tuple[int, list[str]]:
    """How many files there were, and what went wrong with them."""
    path, found, count = loaders.folder / "mutated.pth", [], 0
    weights = loaders.weights[kind]
    for count, mutation in enumerate(mutations, start=1):
        mutation.write(path)
        for name, (load, often) in loaders.of(kind).items():
            if count % often:
                continue
            try:
                with watched():
                    result = load(path)
            except UserError as error:
                if "\n" in str(error).split("\n  ")[0]:  # details may follow
                    found.append(f"{mutation.name}, {name}: {error}")
            except BaseException as error:
                found.append(f"{mutation.name}, {name}: {type(error).__name__} {error}"[:300])
            else:
                found += _unfit(mutation, name, result, weights)
            if canary.exists():
                canary.unlink() if canary.is_file() else canary.rmdir()
                found.append(f"{mutation.name}, {name}: code ran")
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return count, found


def _unfit(mutation: Mutation, name: str, result: Any, weights: Weights) -> list[str]:
    """What is wrong with something that was loaded."""
    where = f"{mutation.name}, {name}"
    if mutation.outcome == REFUSED and name in _STRICT:
        return [f"{where}: was loaded"]
    if result is None or mutation.outcome == REFUSED:
        return []
    tensors = {n: value for n, value in result.items() if isinstance(value, torch.Tensor)}
    if mutation.outcome == WHOLE and not _same(tensors, weights):
        return [f"{where}: other weights"]
    finite = all(value.isfinite().all() for value in tensors.values())
    return [] if finite or name == "read_checkpoint" else [f"{where}: not finite"]


#: Readers of weights; others read less, as `read_meta` does.
_STRICT = ("read_state_dict", "mmengine", "publish", "load_backbone", "load_model", "convert")


def all_of(weights: Weights, canary: Path) -> dict[str, Iterator[Mutation]]:
    return {
        "damaged": damaged(weights),
        "rebuilt": chain(rebuilt(weights), no_files()),
        "code": code(canary),
        "oversized": oversized(),
        "strange": strange(weights),
    }


LEAST = dict(damaged=300, rebuilt=50, code=100, oversized=40, strange=100)


@pytest.mark.parametrize("group", LEAST)
def test_no_file_runs_code_or_is_half_loaded(loaders, tmp_path, group):
    canary = tmp_path / "canary"
    mutations = all_of(loaders.weights["own"], canary)[group]
    count, found = faults(mutations, loaders, "own", canary)
    assert not found, f"{len(found)} of {count}:\n" + "\n".join(found[:30])
    assert count >= LEAST[group]


@pytest.mark.parametrize("kind", ["dense", "minivit"])
def test_converters_and_halving_refuse_them_as_well(loaders, tmp_path, kind, request):
    """A third of the files by default, all of them with ``--full``."""
    canary, weights = tmp_path / "canary", loaders.weights[kind]
    mutations = chain(damaged(weights, many=False), strange(weights), code(canary))
    step = 1 if request.config.getoption("--full") else 3
    count, found = faults(islice(mutations, 0, None, step), loaders, kind, canary)
    assert not found, f"{len(found)} of {count}:\n" + "\n".join(found[:30])
    assert count >= 300 // step


def test_the_unchanged_files_load(loaders, tmp_path):
    """Else all that is refused above would mean nothing."""
    for kind, weights in loaders.weights.items():
        path = tmp_path / f"{kind}.pth"
        path.write_bytes(saved({"state_dict": weights, "meta": {"epoch": 3}}))
        for name, (load, _) in loaders.of(kind).items():
            if name != "Progress":
                result = load(path)
                assert result is None or _same(result, weights), (kind, name)


def poisoned(content):
    content["weights"]["cls_token"][:] = torch.nan


PARTIALS = {
    "another key": lambda content: content.update(key="other"),
    "no key": lambda content: content.pop("key"),
    "a missing weight": lambda content: content["weights"].pop("cls_token"),
    "a name too many": lambda content: content["weights"].update(other=torch.ones(1)),
    "another shape": lambda content: content["weights"].update(cls_token=torch.ones(1, 1, 7)),
    "no tensor": lambda content: content["weights"].update(cls_token=[1.0]),
    "not finite": poisoned,
    "weights in a list": lambda content: content.update(weights=[1]),
    "time in words": lambda content: content.update(seconds="long"),
    "reports of something else": lambda content: content.update(reports=[{"a": 1}]),
    "no reports": lambda content: content.update(reports=7),
    "code": lambda content: content.update(x=Calls(print, "this must never be printed")),
}


@pytest.mark.parametrize("name", PARTIALS)
def test_unfinished_halvings_are_whole_or_refused(loaders, tmp_path, capsys, name):
    partial, target = tmp_path / "target.pth.partial", tmp_path / "target.pth"
    weights = {n: value.clone() for n, value in loaders.own_backbone.state_dict().items()}
    content = dict(key="key", weights=weights, seconds=1.5, reports=[])
    torch.save(content, partial)
    assert Progress.of(target, "key", loaders.own_backbone).seconds_before == 1.5
    PARTIALS[name](content)
    torch.save(content, partial)
    with pytest.raises(UserError, match=r"target\.pth\.partial: .*unfinished halving"):
        Progress.of(target, "key", loaders.own_backbone)
    assert capsys.readouterr().out == ""
