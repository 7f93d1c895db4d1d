"""Processes that train one model: what Slurm starts without GPUs, and how they part."""

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from torch import distributed, nn

from halvit_mm.engine import processes, sharding
from halvit_mm.engine.processes import lost_contact, set_up_processes, tear_down_processes
from halvit_mm.errors import UserError

SLURM = dict(SLURM_PROCID="0", SLURM_NTASKS="1", SLURM_LOCALID="0")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch) -> Iterator[None]:
    """Leaves the environment as it was, and no group of processes behind."""
    monkeypatch.setattr(processes, "get_device", lambda: "cpu")
    before, handler = os.environ.copy(), signal.getsignal(signal.SIGTERM)
    for name in before:
        if name.startswith("SLURM") or name in ("MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
    yield
    signal.signal(signal.SIGTERM, handler)
    os.environ.clear()
    os.environ.update(before)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_no_thread_outlives_the_processes_parting(tmp_path):
    """Those of gloo do, as long as the wrapper of the model holds its group."""
    nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()  # starts autograd's own, if it has any
    before = threads()
    distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    runner = SimpleNamespace(
        distributed=True, model=MMDistributedDataParallel(nn.Linear(2, 2), device_ids=None)
    )
    runner.model(torch.ones(1, 2)).sum().backward()
    assert threads() > before
    tear_down_processes(runner)
    assert threads() <= before
    assert not distributed.is_initialized()
    assert type(runner.model) is nn.Linear


def test_a_single_process_has_nothing_to_part_from():
    tear_down_processes(SimpleNamespace(distributed=False))


def test_slurm_without_gpus(monkeypatch):
    """The group is made as torch's launcher would, from what Slurm says."""
    joined = []
    join = lambda *args, **options: joined.append((args, options))  # noqa: E731
    monkeypatch.setattr(distributed, "init_process_group", join)
    os.environ.update({**SLURM, "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_NNODES": "1"})
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(timeout=120))))
    set_up_processes(cfg, "slurm")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    assert [os.environ[name] for name in names] == ["3", "4", "0", "127.0.0.1", "29500"]
    assert joined == [(("gloo",), dict(timeout=timedelta(seconds=120)))]
    assert cfg.launcher == "slurm"
    assert cfg.model_wrapper_cfg.type == "MMDistributedDataParallel"


def test_slurm_on_several_machines_meets_at_the_first(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames node[7-8]" ] && echo node7 && echo node8\n'
    )
    scontrol.chmod(0o755)
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, timeout: None)
    os.environ.update({**SLURM, "SLURM_NNODES": "2", "SLURM_NODELIST": "node[7-8]"})
    os.environ["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    set_up_processes(Config(), "slurm")
    assert os.environ["MASTER_ADDR"] == "node7"


@pytest.mark.parametrize(
    ("launcher", "reason"),
    [
        ("slurm", "--launcher slurm: SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID not set; start it"),
        ("mpi", "--launcher mpi needs GPUs and there are none: use pytorch"),
    ],
)
def test_launchers_that_did_not_start_this_process(launcher, reason):
    with pytest.raises(UserError, match=reason):
        set_up_processes(Config(), launcher)


@pytest.mark.parametrize(
    "message",
    [
        "[gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:4535: Connection reset by peer",
        "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:21",
        "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation",
    ],
)
def test_a_process_that_waits_in_vain_says_so(tmp_path, message):
    distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    cfg = Config(dict(work_dir=str(tmp_path)))
    reason = r"process 0 of 1: another one has ended.*train again"
    with pytest.raises(UserError, match=reason), lost_contact(cfg):
        raise RuntimeError(message)


def test_other_errors_stay_what_they_are(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    with pytest.raises(RuntimeError, match="shapes"), lost_contact(cfg):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="closed"), lost_contact(cfg):  # of no other process
        raise RuntimeError("Connection closed by peer")


SHARDED = dict(runner_type="FlexibleRunner", strategy=dict(type="SharedWeightFSDPStrategy"))
AVERAGED = dict(custom_hooks=[dict(type="mmpretrain.EMAHook")])
DEEPSPEED = dict(runner_type="FlexibleRunner", strategy=dict(type="DeepSpeedStrategy"))


@pytest.mark.parametrize(
    ("options", "launcher", "reason"),
    [
        (SHARDED, "none", "divides a training among processes, and there is one: start several"),
        (dict(SHARDED, runner_type=None), "pytorch", 'needs runner_type="FlexibleRunner"'),
        (SHARDED | AVERAGED, "pytorch", "EMAHook averages whole weights"),
        (DEEPSPEED, "pytorch", "DeepSpeed, which is not installed: install a release that"),
    ],
)
def test_strategies_that_cannot_work(monkeypatch, options, launcher, reason):
    monkeypatch.setattr(sharding, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=reason):
        set_up_processes(Config(options), launcher)


def test_flexible_runners_meet_on_the_cpu_as_well(monkeypatch):
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, timeout: None)
    cfg = Config(dict(runner_type="FlexibleRunner"))
    set_up_processes(cfg, "pytorch")
    assert cfg.strategy.type == "DDPStrategy"
    assert cfg.strategy.model_wrapper.device_ids is None
    assert not cfg.strategy.model_wrapper.find_unused_parameters
