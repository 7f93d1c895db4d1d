"""Several processes that train or test one model."""

import gc
import os
import subprocess

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import distributed

from ..errors import UserError

#: What torch's launchers set, and what Slurm calls it.
_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


def set_up_processes(cfg: Config, launcher: str) -> None:
    """Lets the processes meet where there are no GPUs.

    mmengine starts processes and wraps the model for CUDA only; this does it for the CPU.

    Args:
        cfg: A config; it is changed.
        launcher: What started the processes; ``"none"`` for a single one.

    Raises:
        UserError: The launcher needs GPUs, or did not start this process.
    """
    cfg.launcher = launcher
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
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    cfg.merge_from_dict({"env_cfg.dist_cfg.backend": "gloo"})
    cfg.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": cfg.get("find_unused_parameters", False),
        **(cfg.get("model_wrapper_cfg") or {}),
        "device_ids": None,
    }


def tear_down_processes(runner: Runner) -> None:
    """Parts the processes, so that none of their threads is left when the interpreter ends.

    The wrapper around the model keeps the process group, whose threads would run on until the
    interpreter's end takes what they work on from under them; that aborts the process at times.
    """
    if not runner.distributed:
        return
    # A process that leaves early would break the connection while another still reports.
    distributed.barrier()
    if is_model_wrapper(runner.model):
        runner.model = runner.model.module
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
