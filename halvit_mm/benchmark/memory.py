"""Peak memory of a process, above what it held at some moment."""

import gc
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # see proc(5)


class PeakMemory:
    """The peak since this object was made, beyond what was held then.

    On the CPU it is resident memory. Where the system cannot forget an earlier peak, that one
    stands for what was held. On a CUDA device it is the allocator's, which is exact.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        gc.collect()
        self._before = self._forget()

    def restart(self) -> None:
        """Forgets the peak so far; it still counts from what was held in the beginning."""
        before = self._forget()
        if not self._cuda and not _can_forget():
            self._before = before

    def read(self) -> int:
        """The peak in bytes."""
        peak = torch.cuda.max_memory_allocated() if self._cuda else highest_resident()
        return peak - self._before

    def _forget(self) -> int:
        """Bytes held now, from which on a peak is kept."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        if _can_forget():
            _CLEAR_REFS.write_text(_FORGET_PEAK)
        return highest_resident()


def _can_forget() -> bool:
    return _CLEAR_REFS.exists()


def highest_resident() -> int:
    """The highest resident memory that is remembered, in bytes."""
    if _STATUS.exists():
        # Not ru_maxrss, which a process inherits from the one that started it.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
