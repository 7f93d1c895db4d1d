"""Several processes that train or test one model."""

import gc
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import distributed

from ..datasets.check_classes import type_name
from ..errors import UserError
from .interruptions import going_on
from .sharding import set_strategy

#: How gloo and NCCL report a process that is gone or does not answer.
_LOST = re.compile(
    r"gloo.*(?:Connection|Timed out|Broken pipe|timeout)|Connection (?:closed|reset) by peer"
    r"|Socket Timeout|wait timeout|remote process exited|ProcessGroup\w*.*[Tt]imeout",
    re.DOTALL,
)
#: What torch's launchers set, and what Slurm calls it.
_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


def set_up_processes(cfg: Config, launcher: str) -> None:
    """Lets the processes meet where there are no GPUs.

    mmengine starts processes and wraps the model for CUDA only; this does it for the CPU.

    Args:
        cfg: A config; it is changed.
        launcher: What started the processes; ``"none"`` for a single one.

    Raises:
        UserError: The launcher needs GPUs, or did not start this process, or the config's strategy
            cannot be used so.
    """
    cfg.launcher = launcher
    set_strategy(cfg, launcher)
    if launcher == "slurm" and (absent := [v for v in _SLURM.values() if v not in os.environ]):
        raise UserError(
            f"--launcher slurm: {', '.join(absent)} not set; start it by srun, "
            "as tools/slurm_train.sh does"
        )
    if launcher == "none" or get_device() != "cpu":
        return
    if launcher == "slurm":
        _take_over_from_slurm()
    elif launcher != "pytorch":
        raise UserError(f"--launcher {launcher} needs GPUs and there are none: use pytorch")
    cfg.merge_from_dict({"env_cfg.dist_cfg.backend": "gloo"})
    if not distributed.is_initialized():
        seconds = cfg.env_cfg.dist_cfg.get("timeout")
        timeout = None if seconds is None else timedelta(seconds=seconds)
        distributed.init_process_group("gloo", timeout=timeout)
    wrapper = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **(cfg.get("model_wrapper_cfg") or {}),
        "device_ids": None,
    }
    if cfg.get("runner_type") != "FlexibleRunner":
        cfg.model_wrapper_cfg = wrapper
    elif type_name(cfg.setdefault("strategy", dict(type="DDPStrategy"))) == "DDPStrategy":
        cfg.strategy.setdefault("model_wrapper", wrapper)


@contextmanager
def lost_contact(cfg: Config, *, training: bool = True) -> Iterator[None]:
    """Tells that another process is gone or silent, where it shows as an error of communication.

    Args:
        cfg: The config of what runs.
        training: Whether it is a training, which can be resumed.

    Raises:
        UserError: This process waited for another in vain.
    """
    try:
        yield
    except RuntimeError as error:
        if not distributed.is_initialized() or not _LOST.search(str(error)):
            raise
        # The launcher ends all others as soon as one has failed; this one first says so.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise UserError(
            f"process {distributed.get_rank()} of {distributed.get_world_size()}: another one has "
            "ended, or has been silent for longer than env_cfg.dist_cfg.timeout allows; look for "
            f"its own message, then {going_on(cfg.work_dir, training=training)}"
        ) from error


def tear_down_processes(runner: Runner) -> None:
    """Parts the processes, so that none of their threads is left when the interpreter ends.

    The wrapper around the model keeps the process group, whose threads would run on until the
    interpreter's end takes what they work on from under them; that aborts the process at times.
    """
    if not runner.distributed:
        return
    # A process that leaves early would break the connection while another still reports.
    distributed.barrier()
    strategy = getattr(runner, "strategy", None)  # of FlexibleRunner
    for holder in (runner, strategy):
        if is_model_wrapper(getattr(holder, "model", None)):
            holder.model = holder.model.module
    gc.collect()  # the wrapper and its hooks refer to each other
    distributed.destroy_process_group()


def _take_over_from_slurm() -> None:
    os.environ.update({name: os.environ[slurm] for name, slurm in _SLURM.items()})
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        nodes = ["scontrol", "show", "hostnames", os.environ.get("SLURM_NODELIST", "")]
        single = os.environ.get("SLURM_NNODES", "1") == "1"
        os.environ["MASTER_ADDR"] = (
            "127.0.0.1" if single else subprocess.check_output(nodes, text=True).split()[0]
        )
