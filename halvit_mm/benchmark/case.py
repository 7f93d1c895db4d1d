"""One case that models are compared in."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["inference", "training", "sizes", "start-up"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What all models of a comparison do, and how.

    Attributes:
        task: A name in :data:`halvit_mm.benchmark.tasks.TASKS`.
        mode: ``inference`` or ``training`` (forward, backward and update) for time and memory;
            ``sizes`` for bytes; ``start-up`` for the time until a model is there.
        batch: Images of a step.
        size: Height and width of the images in pixels.
        classes: Number of classes.
        dtype: ``fp32``, or ``bf16`` for PyTorch's automatic mixed precision with fp32 weights.
        backend: ``eager`` or ``compile``; of detectors only the backbone is compiled.
        device: ``cpu`` or ``cuda``.
        channels_last: Memory format of images and weights.
        threads: Threads of each process.
    """

    task: str = "classification"
    mode: Mode = "inference"
    batch: int = 1
    size: tuple[int, int] = (224, 224)
    classes: int = 1000
    dtype: Literal["fp32", "bf16"] = "fp32"
    backend: Literal["eager", "compile"] = "eager"
    device: Literal["cpu", "cuda"] = "cpu"
    channels_last: bool = False
    threads: int = 1
