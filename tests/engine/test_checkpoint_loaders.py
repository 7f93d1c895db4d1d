"""What mmengine's runner loads and resumes from runs no code, whatever its address."""

import functools
import http.server
import os
import threading

import mmengine.runner.checkpoint
import numpy as np
import pytest
import torch
from hostile_pickles import Calls
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from mutated_files import rezipped, saved
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, make_folders

from halvit_mm.checkpoints.reading import read_checkpoint
from halvit_mm.engine import checkpoint_loaders, launch
from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError


def load(address) -> dict:
    return CheckpointLoader.load_checkpoint(str(address), map_location="cpu", logger="silent")


def test_every_address_is_read_by_the_loaders_here():
    """Those of mmengine run the code in a pickle where torch will not load it without."""
    loaders = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
    assert loaders == {checkpoint_loaders.__name__}


def test_mmengine_alone_would_run_the_code(tmp_path):
    canary = tmp_path / "canary"
    torch.save({"state_dict": {}, "x": Calls(os.mkdir, str(canary))}, tmp_path / "c.pth")
    mmengine.runner.checkpoint.load_from_local(str(tmp_path / "c.pth"), "cpu")
    assert canary.is_dir()


def test_a_config_within_a_checkpoint_is_not_run(tmp_path):
    """mmengine's runner takes ``meta["config"]`` for a config when it resumes, which is Python."""
    canary = tmp_path / "canary"
    config = f"import os\nos.mkdir({str(canary)!r})\n"
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "meta": {"config": config, "iter": 3, "cfg": config}},
        tmp_path / "c.pth",
    )
    assert load(tmp_path / "c.pth")["meta"] == {"iter": 3, "cfg": config}
    mmengine.Config.fromstring(config, file_format=".py")  # what mmengine does with it
    assert canary.is_dir()


def history() -> dict:
    buffer = HistoryBuffer([1.0, 2.5], [1, 3])
    buffer.update(4.0)
    state = ("MT19937", np.arange(624, dtype=np.uint32), 7, 0, 0.0)
    return {
        "state_dict": {"a": torch.ones(2)},
        "message_hub": {
            "log_scalars": {"train/loss": buffer},
            "runtime_info": {"lr": np.float64(0.1), "iter": np.int64(3), "on": np.bool_(True)},
        },
        "random": (state, {"deep": [state, np.array(["a", "bc"])]}),
    }


@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
@pytest.mark.parametrize("legacy", [False, True])
def test_histories_and_states_come_back_from_either_numpy(tmp_path, core, legacy):
    content = saved(history(), legacy=legacy)
    assert b"numpy._core" in content or b"numpy.core" in content
    if legacy:
        content = content.replace(b"numpy._core", core).replace(b"numpy.core", core)
    else:
        content = rezipped(
            content, lambda _, old: old.replace(b"numpy._core", core).replace(b"numpy.core", core)
        )
    (tmp_path / "c.pth").write_bytes(content)
    found = load(tmp_path / "c.pth")
    hub = found["message_hub"]
    buffer = hub["log_scalars"]["train/loss"]
    assert type(buffer) is HistoryBuffer
    np.testing.assert_array_equal(buffer.data[0], [1.0, 2.5, 4.0])
    np.testing.assert_array_equal(buffer.data[1], [1, 3, 1])
    assert (buffer.current(), buffer.min(), buffer.statistics("max")) == (4.0, 1.0, 4.0)
    buffer.update(5.0)
    assert hub["runtime_info"] == history()["message_hub"]["runtime_info"]
    assert type(hub["runtime_info"]["lr"]) is np.float64
    np.random.RandomState().set_state(found["random"][0])
    np.testing.assert_array_equal(found["random"][0][1], np.arange(624, dtype=np.uint32))
    assert found["random"][1]["deep"][1].tolist() == ["a", "bc"]
    again = tmp_path / "again.pth"  # nothing of the stand-ins is left to be saved
    torch.save(found, again)
    assert b"halvit_mm" not in again.read_bytes()
    assert read_checkpoint(again)["random"][0][2:] == (7, 0, 0.0)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("torchvision://no_such_model", "there is no such model"),
        ("open-mmlab://no_such/model", "there is no such model"),
        ("mmcls://no_such_model", "there is no such model"),
        ("s3://bucket/model.pth", "copy this checkpoint to a file"),
        ("pavi://model", "copy this checkpoint to a file"),
        ("x:petrel://model", "copy this checkpoint to a file"),
        ("no_such_file.pth", "there is no such checkpoint"),
    ],
)
def test_what_an_address_lacks_is_one_sentence(address, reason):
    with pytest.raises(UserError, match=reason):
        load(address)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder and its address on this machine."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_downloads_are_read_as_safely(site, tmp_path, monkeypatch):
    folder, address = site
    canary = tmp_path / "canary"
    (folder / "good.pth").write_bytes(saved({"state_dict": {"backbone.a": torch.ones(2)}}))
    evil = {"state_dict": {"a": torch.ones(2)}, "x": Calls(os.mkdir, str(canary))}
    (folder / "evil.pth").write_bytes(saved(evil))
    assert list(load(f"{address}/good.pth?x=1")["state_dict"]) == ["backbone.a"]
    with pytest.raises(UserError, match="would run code"):
        load(f"{address}/evil.pth")
    for getter in ("get_torchvision_models", "get_external_models", "get_mmcls_models"):
        known = {"good": f"{address}/good.pth", "evil": f"{address}/evil.pth"}
        monkeypatch.setattr(checkpoint_loaders, getter, lambda known=known: known)
    for scheme in ("torchvision", "modelzoo", "open-mmlab", "openmmlab", "mmcls"):
        name = "a" if scheme == "mmcls" else "backbone.a"
        assert list(load(f"{scheme}://good")["state_dict"]) == [name]
        with pytest.raises(UserError, match="would run code"):
            load(f"{scheme}://evil")
    assert not canary.exists()


def test_a_broken_download_is_not_kept(site):
    folder, address = site
    whole = saved({"state_dict": {"a": torch.ones(1000)}})
    for broken in (whole[:-500], whole[:2000] + b"\x55" + whole[2001:]):
        (folder / "c.pth").write_bytes(broken)
        with pytest.raises(UserError, match=r"c\.pth: .*(cut off|damaged)"):
            load(f"{address}/c.pth")
    (folder / "c.pth").write_bytes(whole)
    assert load(f"{address}/c.pth")["state_dict"]["a"].sum() == 1000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A config and a checkpoint of a training that can be resumed."""
    folder = tmp_path_factory.mktemp("run")
    path = classifier_config(folder / "loaders.py", make_folders(folder / "data"))
    options = {"train_cfg.max_epochs": 1, "default_hooks.checkpoint.interval": 1}
    cfg = load_config(path, {**options, "work_dir": str(folder / "run")})
    launch.train(cfg)
    save_initial(path, folder / "initial.pth", classes=CLASSES)
    return path, folder / "run" / "epoch_1.pth"


def train(path, folder, **options):
    settings = {"train_cfg.max_epochs": 2, "val_evaluator": None, "val_dataloader": None}
    cfg = load_config(path, {**settings, "val_cfg": None, "work_dir": str(folder / "again")})
    return launch.train(cfg, **options)


@pytest.mark.parametrize("way", ["load_from", "resume", "test"])
def test_no_code_runs_in_training_or_testing(run, tmp_path, way):
    path, checkpoint = run
    canary = tmp_path / "canary"
    content = torch.load(checkpoint, weights_only=False)
    content["optimizer"]["x"] = Calls(os.mkdir, str(canary))
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"c\.pth: loading would run code"):
        if way == "test":
            cfg = load_config(path, {"work_dir": str(tmp_path)})
            launch.test(cfg, str(tmp_path / "c.pth"))
        else:
            train(path, tmp_path, **{way: str(tmp_path / "c.pth")})
    assert not canary.exists()


def poison(content):
    content["state_dict"]["backbone.cls_token"][:] = torch.nan


STATES = {
    "no iterations": lambda content: content["meta"].pop("iter"),
    "iterations in words": lambda content: content["meta"].update(iter="three"),
    "no meta": lambda content: content.update(meta=7),
    "no optimiser": lambda content: content.update(optimizer={"a": 1}),
    "other groups": lambda content: content["optimizer"]["param_groups"].pop(),
    "no message hub": lambda content: content.update(message_hub=[1]),
    "not finite": poison,
    "weights are a list": lambda content: content.update(state_dict=[1, 2]),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_cannot_be_resumed_from_is_one_sentence(run, tmp_path, name):
    path, checkpoint = run
    content = torch.load(checkpoint, weights_only=False)
    STATES[name](content)
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"c\.pth: ") as caught:
        train(path, tmp_path, resume=str(tmp_path / "c.pth"))
    assert "\n" not in str(caught.value)
