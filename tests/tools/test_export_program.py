"""tools/export_program.py, and tools/test.py on a file of safetensors, as whole processes."""

import json
import sys
from pathlib import Path

import pytest
from processes import run
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, make_folders

from halvit_mm.checkpoints.publish import publish
from halvit_mm.deploy.program_runtime import ProgramModel


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("classifier")
    config = classifier_config(folder / "config.py", make_folders(folder / "data"))
    return config, save_initial(config, folder / "weights.pth", classes=CLASSES)


def test_the_tool_says_how_large_and_how_near_the_program_is(tmp_path, root, files):
    config, checkpoint = files
    tool = [sys.executable, root / "tools/export_program.py", config, checkpoint]
    status, output, errors = run([*tool, "a.pt2", "--core-aten"], tmp_path)
    assert status == 0, errors
    assert "a.pt2:" in output and "each is in the file once" in output
    assert "of that" in output and "on 2 images" in output
    assert "all operators are of PyTorch's core set" in output
    assert ProgramModel(tmp_path / "a.pt2").classes == CLASSES
    status, output, errors = run([*tool, "a.pt2"], tmp_path)
    assert (status, output) == (2, "") and errors.startswith("error: a.pt2: this exists already")
    status, output, errors = run([*tool, "b.pt", "--any-size"], tmp_path)
    assert status == 2 and errors.count("\n") == 1 and "--any-size" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]


def test_files_of_safetensors_are_tested_trained_from_and_exported(tmp_path, root, files):
    config, checkpoint = files
    weights = publish(checkpoint, tmp_path / "weights.safetensors")
    found = []
    for path in (checkpoint, weights):
        test = [sys.executable, root / "tools/test.py", config, path, "--work-dir", "work"]
        status, _, errors = run([*test, "--json", f"{path.suffix}.json"], tmp_path)
        assert status == 0, errors
        found.append(json.loads((tmp_path / f"{path.suffix}.json").read_text()))
    assert found[0] == found[1]

    train = [sys.executable, root / "tools/train.py", config, "--work-dir", "run"]
    options = ["--cfg-options", "train_cfg.max_epochs=1"]
    status, output, errors = run([*train, "--load-from", weights, *options], tmp_path)
    assert status == 0, errors
    assert "100.0% of the parameters" in output
    status, _, errors = run([*train, "--resume", weights, *options], tmp_path)
    assert status == 2 and "no state of a training to resume" in errors

    export = [sys.executable, root / "tools/export_program.py", config, weights, "a.torchscript"]
    assert run(export, tmp_path)[0] == 0
    weights.write_bytes(weights.read_bytes()[:-100])
    for tool in ([*test[:3], weights], [*train, "--load-from", weights], [*export[:4], "b.pt2"]):
        status, _, errors = run(tool, tmp_path)
        assert status == 2
        assert errors == (
            f"error: {weights}: the checkpoint is cut off; copy or download it again, "
            "or take an earlier one\n"
        )
