"""What stops a training from outside is told in one sentence."""

import errno
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS
from tiny_runs import classifier_config, make_folders
from torch.utils.data import get_worker_info

from halvit_mm.engine import launch
from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.determinism import set_determinism
from halvit_mm.engine.interruptions import interruptions
from halvit_mm.errors import UserError


@TRANSFORMS.register_module()
class EndWorker:
    """Ends the process that loads the image, as a lack of memory does; after one epoch."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def __call__(self, results: dict) -> dict:
        if self.file.exists() and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return results


@HOOKS.register_module()
class IndefiniteHook(Hook):
    """Uses an operator that PyTorch has in no deterministic form."""

    def before_train_iter(self, *args, **kwargs) -> None:
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return make_folders(tmp_path_factory.mktemp("folders") / "data")


def config(tmp_path: Path, folders: Path, **options):
    options = {"train_cfg.max_epochs": 3, "default_hooks.checkpoint.interval": 1, **options}
    return load_config(classifier_config(tmp_path / f"{tmp_path.name}.py", folders), options)


def test_a_process_that_loads_data_and_dies(tmp_path, folders):
    work = tmp_path / "work"
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="EndWorker", file=str(work / "epoch_1.pth")),
        dict(type="PackInputs"),
    ]
    loader = {"num_workers": 1, "persistent_workers": False, "dataset.pipeline": pipeline}
    cfg = config(tmp_path, folders, **{f"train_dataloader.{k}": v for k, v in loader.items()})
    with pytest.raises(UserError) as caught:
        launch.train(cfg, work_dir=str(work))
    assert re.fullmatch(
        "a process that loads data (is killed by signal: Killed|exited unexpectedly), mostly for "
        r"want of memory \(shared memory in a container\): lower train_dataloader\.num_workers or "
        "its batch_size, then --resume goes on from the last good checkpoint, "
        rf"{work}/epoch_1\.pth",
        str(caught.value),
    )


def test_an_operator_without_a_deterministic_form(tmp_path, folders):
    hooks = [dict(type="IndefiniteHook")]
    launch.train(
        config(tmp_path, folders, custom_hooks=hooks, **{"train_cfg.max_epochs": 1}),
        work_dir=str(tmp_path / "work"),
    )
    try:
        with pytest.raises(UserError, match=r"^--deterministic: put_ has no deterministic form"):
            launch.train(
                config(tmp_path, folders, custom_hooks=hooks),
                work_dir=str(tmp_path / "other"),
                deterministic=True,
            )
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


def test_what_deterministic_sets(tmp_path, folders, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cfg = config(tmp_path, folders, **{"env_cfg.cudnn_benchmark": True})
    (note,) = set_determinism(cfg)
    assert note == "--deterministic: the config sets no randomness.seed, 0 is taken"
    assert cfg.randomness == dict(seed=0, deterministic=True)
    assert cfg.env_cfg.cudnn_benchmark is False
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    seeded = config(tmp_path, folders, randomness=dict(seed=7, diff_rank_seed=True))
    assert set_determinism(seeded) == []
    assert seeded.randomness == dict(seed=7, diff_rank_seed=True, deterministic=True)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        UserError("a mistake"),
        RuntimeError("shapes do not match"),
        KeyError("name"),
    ],
)
def test_anything_else_stays_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, interruptions(tmp_path):
        raise error
    assert caught.value is error
