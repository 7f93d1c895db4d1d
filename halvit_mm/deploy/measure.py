"""What exported models cost at run time: resident memory and time, side by side."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from ..errors import UserError
from .runtime import open_session

#: Sides of the image that graphs for any size are run on, in pixels.
USUAL_SIZE = (800, 1216)
_SMAPS = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident memory that a session adds to a process which has an empty one already, in bytes.

    Attributes:
        loaded: When the model is loaded.
        anonymous: Of it, what is the process's own. The rest are pages of the file, which the
            system can drop and read again, and which processes share.
        ran: After an image went through, with all that the model keeps for the next one.
    """

    loaded: int
    anonymous: int
    ran: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one file costs.

    Attributes:
        path: The file.
        prefer: See :class:`~halvit_mm.deploy.OnnxModel`.
        file_bytes: Its size, with that of a second file of weights.
        memory: Its memory.
        seconds: Of each round.
    """

    path: str
    prefer: str
    file_bytes: int
    memory: Memory
    seconds: tuple[float, ...]

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(
    models: Sequence[tuple[str, str]], *, batch: int = 1, threads: int = 1, rounds: int = 20
) -> list[Measured]:
    """Measures memory, each model in a process of its own, then times all of them in turns.

    Args:
        models: Files, and ``"memory"`` or ``"speed"`` for each.
        batch: Images at once.
        threads: Threads of an operator.
        rounds: How often each model has its turn.

    Raises:
        UserError: A file cannot be read, or the system does not say how much memory is resident.
    """
    if not _SMAPS.exists():
        raise UserError("this system has no /proc/self/smaps_rollup, which tells resident memory")
    memories = [
        _memory_apart(path, prefer, batch=batch, threads=threads) for path, prefer in models
    ]
    sessions = [open_session(path, prefer=prefer, threads=threads) for path, prefer in models]
    pixels = [_pixels(session, batch) for session in sessions]
    seconds: list[list[float]] = [[] for _ in models]
    for i in range(rounds + 1):
        for session, image, times in zip(sessions, pixels, seconds, strict=True):
            start = time.perf_counter()
            session.run(None, {"image": image})
            if i:  # the first round warms up
                times.append(time.perf_counter() - start)
    return [
        Measured(
            path=path,
            prefer=prefer,
            file_bytes=sum(
                file.stat().st_size for file in (Path(path), Path(f"{path}.data")) if file.exists()
            ),
            memory=memory,
            seconds=tuple(times),
        )
        for (path, prefer), memory, times in zip(models, memories, seconds, strict=True)
    ]


def table(measured: Sequence[Measured]) -> str:
    """A Markdown table; ratios are to the last model, of time the median over rounds."""
    last = measured[-1]
    lines = [
        "| model | file, MB | loaded, MB | of it its own | after a run | ms | time, quartiles |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in measured:
        ratios = [a / b for a, b in zip(m.seconds, last.seconds, strict=True)]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        name = Path(m.path).name + (", prefer speed" if m.prefer == "speed" else "")
        of = {
            "file": m.file_bytes / last.file_bytes,
            "loaded": m.memory.loaded / last.memory.loaded,
            "ran": m.memory.ran / last.memory.ran,
        }
        lines.append(
            f"| {name} | {m.file_bytes / 1e6:.1f} ({of['file']:.3f}) "
            f"| {m.memory.loaded / 1e6:.1f} ({of['loaded']:.3f}) "
            f"| {m.memory.anonymous / 1e6:.1f} | {m.memory.ran / 1e6:.1f} ({of['ran']:.3f}) "
            f"| {median(m.seconds) * 1e3:.1f} | {median(ratios):.3f}, {low:.3f}–{high:.3f} |"
        )
    return "\n".join(lines)


def _memory_apart(path: str, prefer: str, *, batch: int, threads: int) -> Memory:
    command = [sys.executable, "-m", __name__, path, prefer, str(batch), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise UserError(done.stderr.strip().split("\n")[-1].removeprefix("error: "))
    return Memory(**json.loads(done.stdout))


def _environment() -> dict[str, str]:
    """With the allocator's own settings: some keep memory that is free."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    root = str(Path(__file__).resolve().parents[2])
    return kept | {"PYTHONPATH": os.pathsep.join([root, kept.get("PYTHONPATH", "")])}


def _memory(path: str, prefer: str, batch: int, threads: int) -> Memory:
    _empty_session()
    before, own_before = _resident()
    session = open_session(path, prefer=prefer, threads=threads)
    loaded, own = _resident()
    session.run(None, {"image": _pixels(session, batch)})
    return Memory(loaded=loaded - before, anonymous=own - own_before, ran=_resident()[0] - before)


def _empty_session() -> None:
    """Loads and runs a model without weights, so that what onnxruntime itself needs is there."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, [1]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", [x], [y])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session.run(None, {"x": np.zeros(1, np.float32)})


def _resident() -> tuple[int, int]:
    """Resident bytes, and those of them that no file has."""
    sizes = {}
    for line in _SMAPS.read_text().splitlines()[1:]:
        name, value = line.split(":")
        sizes[name] = int(value.split()[0]) * 1024
    return sizes["Rss"], sizes["Anonymous"]


def _pixels(session: Any, batch: int) -> np.ndarray:
    _, channels, *size = session.get_inputs()[0].shape
    sides = [s if isinstance(s, int) else usual for s, usual in zip(size, USUAL_SIZE, strict=True)]
    if session.get_inputs()[0].shape[0] == 1:
        batch = 1
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (batch, channels, *sides)).astype(np.float32)


if __name__ == "__main__":
    from ..cli import run

    run(lambda: print(json.dumps(asdict(_memory(*sys.argv[1:3], *map(int, sys.argv[3:]))))))
