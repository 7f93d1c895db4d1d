"""Checkpoints that are written whole or not at all, and replace others only when they are there.

mmengine writes a checkpoint over the file of its name, and removes what the checkpoint makes
superfluous before it writes. A kill or a full disk in that moment can cost the only good one.
"""

import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..files import whole_file

#: The checkpoint that :class:`MidEpochCheckpointHook` writes, again and again.
MID_EPOCH = "mid_epoch.pth"
#: Notes the path of the checkpoint to resume from.
LAST = "last_checkpoint"
#: Under this name a checkpoint holds the names of those that it makes superfluous.
_OUTDATED = "outdated_checkpoints"


class WholeFilesBackend(LocalBackend):
    """What mmengine writes local files with: no file is ever half written, and each is on disk."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes a file in place of the one at ``filepath``, if any.

        Raises:
            UserError: The disk is full, or the place cannot be written to.
        """
        with whole_file(Path(filepath)) as temporary, temporary.open("wb") as file:
            self.write(file, obj)
            file.flush()
            os.fsync(file.fileno())

    def write(self, file: BinaryIO, obj: bytes) -> None:
        """Writes all bytes to an open file."""
        file.write(obj)


# As for reading (``checkpoint_loaders``), mmengine is taught by registering: whatever saves, its
# runners, hooks or the tools of mmdet and mmpretrain, saves so.
register_backend("local", WholeFilesBackend, force=True, prefixes="")


def note_last_checkpoint(work_dir: str | Path, path: str | Path) -> None:
    """Notes which checkpoint to resume from, where mmengine looks for it, too."""
    WholeFilesBackend().put(str(path).encode(), Path(work_dir) / LAST)


def remove_unfinished(work_dir: str | Path) -> None:
    """Removes what a killed training had not written to the end; a folder belongs to one."""
    for name in ("*.pth", LAST):
        for path in Path(work_dir).glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which removes old checkpoints after the new one is safe.

    ``launch.train`` puts it in the place of mmengine's; its arguments are the same. What a
    checkpoint makes superfluous is named in it, so that a training killed before it had removed
    that does so when it is resumed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # mmengine's, of which there are many
        super().__init__(*args, **kwargs)
        self._outdated: list[str] = []

    def before_train(self, runner: Runner) -> None:
        """Removes what an interrupted run left behind: outdated and unfinished checkpoints."""
        super().before_train(runner)
        self._stay_here()
        self._remove_outdated()
        if is_main_process():  # the option ``out_dir`` may name another folder than the run's
            remove_unfinished(self.out_dir)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Notes in the checkpoint which older ones it makes superfluous."""
        checkpoint[_OUTDATED] = list(self._outdated)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes this list over when it is resumed."""
        if runner.cfg.get("resume"):
            self._outdated = list(checkpoint.get(_OUTDATED, ()))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self._outdated.append(self.filename_tmpl.format(self.keep_ckpt_ids[0]))
            self.keep_ckpt_ids.append(step)  # of a fixed length: the first one drops out
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            note_last_checkpoint(runner.work_dir, self.last_ckpt)
        self._remove_outdated()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        backend = self.file_backend
        self.file_backend = _Postponed(backend, self._outdated)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        self._remove_outdated()

    def _best(self) -> dict[str | None, str | None]:
        """The best checkpoints by metric; None instead of the metric where there is one alone."""
        if hasattr(self, "best_ckpt_path_dict"):
            return self.best_ckpt_path_dict
        return {None: getattr(self, "best_ckpt_path", None)}

    def _stay_here(self) -> None:
        """Looks for the best ones in this folder, though they were in that which it is a copy of.

        Else the original's best would be removed when the copy has a better one.
        """
        for metric, path in self._best().items():
            if path is not None:
                here = self.file_backend.join_path(self.out_dir, Path(path).name)
                if metric is None:
                    self.best_ckpt_path = here
                else:
                    self.best_ckpt_path_dict[metric] = here

    def _remove_outdated(self) -> None:
        if isinstance(self.file_backend, _Postponed):
            return  # there is more to be saved
        kept = {Path(path).name for path in (*self._best().values(), self.last_ckpt) if path}
        for name in self._outdated if is_main_process() else ():
            path = self.file_backend.join_path(self.out_dir, name)
            if name in kept:
                continue
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # DeepSpeed's checkpoints are folders
                shutil.rmtree(path)
        self._outdated.clear()


class _Postponed:
    """A backend of mmengine's that notes the names of files instead of removing them."""

    def __init__(self, backend: Any, names: list[str]) -> None:
        self._backend = backend
        self._names = names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._names.append(Path(path).name)

    rmtree = remove


@HOOKS.register_module()
class MidEpochCheckpointHook(Hook):
    """Saves every so many iterations to one file, ``mid_epoch.pth``, so that a kill costs little.

    It comes in addition to mmengine's CheckpointHook, whose checkpoints of whole epochs stay. The
    file is noted as the last checkpoint, and removed when training is over.

    Args:
        interval: Number of iterations from one to the next. With gradient accumulation it must be
            a multiple of ``accumulative_counts``, which ``launch.train`` sees to.
    """

    #: After all that changes the state, and after CheckpointHook.
    priority = "LOWEST"

    def __init__(self, *, interval: int) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Saves every ``interval`` iterations."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        runner.save_checkpoint(runner.work_dir, MID_EPOCH, by_epoch=False)
        if runner.rank == 0:
            note_last_checkpoint(runner.work_dir, Path(runner.work_dir) / MID_EPOCH)

    def after_train(self, runner: Runner) -> None:
        """Removes the file, which the checkpoints of whole epochs make superfluous."""
        path = Path(runner.work_dir) / MID_EPOCH
        noted = path.with_name(LAST)
        if runner.rank == 0 and noted.is_file() and noted.read_text() != str(path):
            path.unlink(missing_ok=True)
