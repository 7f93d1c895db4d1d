"""Published checkpoints: weights and plain facts."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from halvit_mm.checkpoints.publish import publish
from halvit_mm.errors import UserError


def training_checkpoint(**changes) -> dict:
    shared = torch.arange(6.0).reshape(2, 3)
    return {
        "state_dict": {
            "w": shared,
            "alias": shared,
            "view": torch.arange(10_000.0)[:4],
            "count": torch.tensor(7),
        },
        "ema_state_dict": {"module.w": torch.zeros(2, 3)},
        "optimizer": {"state": {0: torch.ones(100_000)}},
        "message_hub": {"loss": HistoryBuffer([1.0], [1])},
        "meta": {
            "epoch": 3,
            "seed": np.int64(5),
            "cfg": "model = dict()",
            "dataset_meta": {"classes": ("a", "b"), "palette": np.array([[1, 2, 3]])},
            "experiment_name": "somewhere",
        },
        **changes,
    }


def test_published_file_holds_weights_and_plain_facts_only(tmp_path):
    torch.save(training_checkpoint(), tmp_path / "epoch_3.pth")
    path = publish(tmp_path / "epoch_3.pth", tmp_path / "out" / "model.pth")
    content = torch.load(path, weights_only=True)
    assert sorted(content) == ["meta", "state_dict"]
    assert content["state_dict"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert content["meta"]["dataset_meta"] == {"classes": ["a", "b"], "palette": [[1, 2, 3]]}
    assert content["meta"]["epoch"] == 3 and content["meta"]["seed"] == 5
    assert content["meta"]["cfg"] == "model = dict()"
    assert "experiment_name" not in content["meta"]
    assert path.stat().st_size < 10_000  # neither the optimiser nor the storage behind the view


def test_name_has_the_files_hash_and_the_same_input_gives_the_same_file(tmp_path):
    torch.save(training_checkpoint(), tmp_path / "c.pth")
    first = publish(tmp_path / "c.pth", tmp_path / "model.pth")
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert first.name == f"model-{digest[:8]}.pth"
    second = publish(tmp_path / "c.pth", tmp_path / "elsewhere" / "other")
    assert second.name == f"other-{digest[:8]}.pth"


def test_a_tensor_under_two_names_stays_one(tmp_path):
    torch.save(training_checkpoint(), tmp_path / "c.pth")
    for fp16 in (False, True):
        weights = torch.load(publish(tmp_path / "c.pth", tmp_path / "m.pth", fp16=fp16))
        weights = weights["state_dict"]
        assert weights["w"].data_ptr() == weights["alias"].data_ptr()


def test_half_precision_casts_floats_only(tmp_path):
    torch.save(training_checkpoint(), tmp_path / "c.pth")
    weights = torch.load(publish(tmp_path / "c.pth", tmp_path / "m.pth", fp16=True))["state_dict"]
    assert weights["w"].dtype == torch.float16 and weights["w"].tolist()[1] == [3, 4, 5]
    assert weights["count"].dtype == torch.int64


def test_half_precision_refuses_what_it_cannot_hold(tmp_path):
    torch.save({"state_dict": {"big": torch.tensor([1e6])}}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="big is too large for half precision"):
        publish(tmp_path / "c.pth", tmp_path / "m.pth", fp16=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pth"]


def test_averaged_weights_on_request(tmp_path):
    torch.save(training_checkpoint(), tmp_path / "c.pth")
    # mmengine has put the average under state_dict.
    weights = torch.load(publish(tmp_path / "c.pth", tmp_path / "m.pth", ema=True))["state_dict"]
    assert weights["w"].sum() == 15
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "plain.pth")
    with pytest.raises(UserError, match=r"plain\.pth: the checkpoint has no averaged weights"):
        publish(tmp_path / "plain.pth", tmp_path / "m.pth", ema=True)


@pytest.mark.parametrize("target", [".", "file/model.pth"])
def test_a_target_that_cannot_be_written_is_refused(tmp_path, target):
    torch.save(training_checkpoint(), tmp_path / "c.pth")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"folder|cannot write there"):
        publish(tmp_path / "c.pth", tmp_path / target)


def test_nothing_partial_is_left_when_writing_fails(tmp_path, monkeypatch):
    torch.save(training_checkpoint(), tmp_path / "c.pth")

    def full(content, file):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        publish(tmp_path / "c.pth", tmp_path / "m.pth")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pth"]


def test_command(tmp_path, root):
    torch.save(training_checkpoint(), tmp_path / "c.pth")
    command = [sys.executable, str(root / "tools/publish_model.py")]
    done = subprocess.run(
        [*command, "c.pth", "model.pth", "--fp16"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(tmp_path / done.stdout.strip()).name.startswith("model-")
    assert torch.load(tmp_path / done.stdout.strip())["state_dict"]["w"].dtype == torch.float16

    (tmp_path / "c.pth").write_bytes((tmp_path / "c.pth").read_bytes()[:-50])
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [*command, "c.pth", "model.pth"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: c.pth: the checkpoint is cut off")
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
