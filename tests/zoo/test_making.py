"""A model of the zoo is trained, published and tested; what is there is not made again."""

import hashlib
import json
import sys

import pytest
import torch
from processes import run
from tiny_runs import classifier_config, make_folders

from halvit_mm.errors import UserError
from halvit_mm.zoo import making
from halvit_mm.zoo.entries import ENTRIES, Entry
from halvit_mm.zoo.making import check, make, shown
from halvit_mm.zoo.page import make_table, write_page

pytestmark = pytest.mark.xdist_group("zoo")
METRICS = (("Image Classification", "Top 1 Accuracy", "accuracy/top1"),)


@pytest.fixture(scope="module")
def entry() -> Entry:
    return Entry(config="tiny.py", dataset="squares", metrics=METRICS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("zoo")
    classifier_config(root / "tiny.py", make_folders(root / "data"))
    with (root / "tiny.py").open("a") as config:
        config.write("train_cfg = dict(by_epoch=True, max_epochs=2)\nrandomness = dict(seed=3)\n")
        config.write("default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))\n")
    return dict(root=root, work_dir=root / "work", results=root / "results")


@pytest.fixture(scope="module")
def made(entry, folders) -> dict:
    said = []
    facts = make(entry, **folders, tell=said.append)
    assert [line.split(": ")[1].split(" ")[0] for line in said] == [
        *("training", "testing", "testing", "Top"),
    ]
    return facts


def test_the_published_file_is_the_one_that_was_tested(entry, folders, made):
    file = folders["work_dir"] / "published" / made["file"]
    content = file.read_bytes()
    assert (made["bytes"], made["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    published = torch.load(file, weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in published.values()} <= {torch.float16, torch.int64}
    assert made["parameters"] == sum(tensor.numel() for tensor in published.values())
    assert made["backbone_parameters"] < made["parameters"]


def test_the_log_tells_what_was_done(entry, folders, made):
    assert json.loads((folders["results"] / "tiny.json").read_text()) == made
    assert made["command"] == "python tools/train.py tiny.py"
    assert (made["seed"], made["epochs"], made["dataset"]) == (3, 2, "squares")
    assert made["trained"][:2] == "20" and made["machine"]["versions"]["halvit_mm"]
    for metrics in made["metrics"].values():
        assert 0 <= metrics["accuracy/top1"] <= 100
    assert shown(entry, made) == f"Top 1 Accuracy {made['metrics']['fp16']['accuracy/top1']:.2f}"


def test_nothing_is_made_twice(entry, folders, made):
    said = []
    assert make(entry, **folders, tell=said.append) == made
    assert said == [f"tiny: {folders['results'] / 'tiny.json'} is about this very file"]


def test_a_training_goes_on_where_it_stopped(entry, folders, made):
    """With one epoch of two the second is made again, and gives the same."""
    folder = folders["work_dir"] / "tiny"
    (folder / "epoch_2.pth").unlink()
    (folder / "last_checkpoint").write_text(str(folder / "epoch_1.pth"))
    said = []
    assert make(entry, **folders, tell=said.append)["metrics"] == made["metrics"]
    assert said[0] == f"tiny: training in {folder}"
    # Runs that start within one second share a log.
    logs = [log.read_text() for log in folders["work_dir"].rglob("*.log")]
    assert any("training continues from" in text for text in logs)
    assert len(list((folders["work_dir"] / "published").iterdir())) == 1


def test_another_training_in_the_folder_is_refused(entry, folders, made):
    config = folders["root"] / "tiny.py"
    before = config.read_text()
    config.write_text(before.replace("seed=3", "seed=4"))
    try:
        with pytest.raises(UserError, match="had another randomness"):
            make(entry, **folders)
    finally:
        config.write_text(before)


def test_what_is_too_large_for_a_release_is_refused(entry, folders, made, monkeypatch):
    monkeypatch.setattr(making, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="too many for a release"):
        make(entry, **folders)


def test_missing_data_are_told_before_anything_is_trained(tmp_path, entry):
    classifier_config(tmp_path / "tiny.py", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"^tiny: .*nowhere.*"):
        check([entry], root=tmp_path, work_dir=tmp_path / "work")


def test_the_tool_tells_of_missing_data_and_unknown_names(root, tmp_path):
    tool = [sys.executable, root / "tools/make_model_zoo.py"]
    status, _, errors = run(
        [*tool, "small_halvit_cifar10"], cwd=tmp_path, HALVIT_CIFAR10_ROOT=str(tmp_path / "none")
    )
    assert status == 2
    assert errors.splitlines()[-1].startswith("error: small_halvit_cifar10: ")
    assert str(tmp_path / "none") in errors
    status, _, errors = run([*tool, "resnet"], cwd=tmp_path)
    assert status == 2
    assert errors.startswith("error: resnet: there is no such model; the zoo has mask_rcnn_halvit")


def test_the_table_has_a_row_for_each_log(root, tmp_path):
    results = root / "docs/results/zoo"
    rows = make_table(results).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [
        name for name in ENTRIES if (results / f"{name}.json").exists()
    ]
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- table: zoo -->\nold\n<!-- end -->\nbelow\n")
    write_page(page, results)
    assert page.read_text().splitlines()[2:-2] == make_table(results).splitlines()


def test_the_page_is_made_of_the_logs(root):
    assert make_table(root / "docs/results/zoo") in (root / "docs/model_zoo.md").read_text()


@pytest.mark.parametrize("name", ENTRIES)
def test_logs_fit_a_release(root, name):
    log = root / "docs/results/zoo" / f"{name}.json"
    if not log.exists():
        pytest.skip(f"{name} has not been trained yet: python tools/make_model_zoo.py {name}")
    facts = json.loads(log.read_text())
    assert facts["config"] == ENTRIES[name].config
    assert facts["bytes"] <= making.MAX_BYTES
    assert facts["file"] == f"{name}-{facts['sha256'][:8]}.pth"
    for _, _, metric in ENTRIES[name].metrics:
        both = [facts["metrics"][precision][metric] for precision in ("fp16", "fp32")]
        assert abs(both[0] - both[1]) <= 0.01 * max(both)
