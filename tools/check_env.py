"""Tells whether this installation works: versions, operators, and a tiny detector end to end.

    python tools/check_env.py

Exits with status 0 if everything works, else with 1 after one line per problem. Put the output
at the head of a bug report. All but the standard library is imported piece by piece, so that a
missing or broken package is a line of the report and not its end. For the same reason this tool,
unlike the others, holds its code itself: ``halvit_mm`` may be what cannot be imported.
"""

import argparse
import contextlib
import importlib
import io
import os
import platform
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import _path  # noqa: F401

CONFIG = Path(__file__).resolve().parent.parent / "configs/_base_/models/mask_rcnn_halvit.py"
OPENMMLAB = ("mmengine", "mmcv", "mmdet", "mmpretrain")
PACKAGES = ("numpy", "torch", "torchvision", "cv2", "pycocotools", *OPENMMLAB, "halvit_mm")
SAFE_LOADING = (2, 10)  # the first release of torch without known holes in ``weights_only``
SIDE = 128  # of the synthetic image, in pixels


class Report:
    """Prints one line per finding and remembers the problems."""

    def __init__(self, *, verbose: bool) -> None:
        self.verbose = verbose
        self.problems: list[str] = []
        self.broken: set[str] = set()  # packages

    def line(self, label: str, text: str) -> None:
        print(f"  {label:<14}{text}", flush=True)

    def problem(self, label: str, text: str) -> None:
        """Notes a problem; called while an exception is handled, shows where it was raised."""
        self.line(label, "FAILED")
        self.problems.append(text)
        if self.verbose and sys.exc_info()[0] is not None:
            traceback.print_exc()

    def attempt(self, label: str, step: Callable[[], Any]) -> tuple[bool, Any]:
        """Runs one step and prints its time; returns whether it worked, and its result."""
        start = time.perf_counter()
        chatter = sys.stdout if self.verbose else io.StringIO()
        try:
            with contextlib.redirect_stdout(chatter):
                result = step()
        except Exception as error:
            self.problem(label, f"{label}: {summary(error)}")
            return False, None
        self.line(label, f"ok  {time.perf_counter() - start:6.2f} s")
        return True, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", help="where the detector runs (default: cuda if available)")
    parser.add_argument("--verbose", action="store_true", help="show warnings and tracebacks")
    args = parser.parse_args()
    if not args.verbose:
        warnings.simplefilter("ignore")
    report = Report(verbose=args.verbose)

    print("Versions")
    report.line("python", f"{platform.python_version()} ({sys.executable})")
    report.line("platform", platform.platform())
    modules = {name: check_package(name, report) for name in PACKAGES}
    if torch := modules["torch"]:
        report.line("cpu threads", f"{torch.get_num_threads()} on {os.cpu_count()} cores")
        report.line("cuda", describe_cuda(torch))
        if torch_release(torch) < SAFE_LOADING:
            report.line("note", "torch before 2.10 has known holes in reading checkpoints")
            report.line("", "(CVE-2025-32434, CVE-2026-24747): open files you trust only")

    if all(modules.values()):
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        print("Operators of mmcv")
        if check_operators(torch, device, report):
            print(f"A tiny Mask R-CNN, one image of {SIDE} × {SIDE} pixels, {device}")
            check_detector(torch, device, report)

    for problem in report.problems:
        print(f"problem: {problem}")
    if not report.problems:
        print("everything works")
    return 1 if report.problems else 0


def summary(error: Exception) -> str:
    """One line about an error: its type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


# ------------------------------------------------------------------------------------- versions


def torch_release(torch: ModuleType) -> tuple[int, ...]:
    """Major and minor number."""
    return tuple(map(int, torch.__version__.split(".")[:2]))


def check_package(name: str, report: Report) -> ModuleType | None:
    """Imports ``name`` and prints its version and the distribution that provides it."""
    if find_spec(name) is None:
        report.broken.add(name)
        report.problem(name, f"{name} is not installed; run `make install`")
        return None
    try:
        module = importlib.import_module(name)
    except Exception as error:
        if cause := culprit(error, report.broken):
            report.line(name, f"not usable without {cause}")
        else:
            cure = "run `make install`"
            if name == "torchvision":
                torch = sys.modules["torch"]
                cure = f"{cure}, or install the release that belongs to torch {torch.__version__}"
            report.problem(name, f"{name} does not import ({summary(error)}); {cure}")
        report.broken.add(name)
        return None

    owners = sorted(set(metadata.packages_distributions().get(name, ())))
    version = getattr(module, "__version__", None) or ", ".join(map(metadata.version, owners))
    origin = " and ".join(owners) or str(Path(module.__file__).parent)
    report.line(name, version if owners == [name] else f"{version} (from {origin})")
    if name in OPENMMLAB and len(owners) > 1:
        report.problem(
            name, f"{origin} overwrite each other's files; uninstall them and run `make install`"
        )
    if name == "torchvision" and (belongs := torch_release_of_torchvision()):
        torch_version = sys.modules["torch"].__version__
        if torch_version.partition("+")[0] != belongs:
            report.problem(
                name,
                f"torchvision {version} belongs to torch {belongs}, not {torch_version}; "
                "run `make install`, or install releases that belong together",
            )
    return module


def culprit(error: Exception, broken: set[str]) -> str | None:
    """The broken package that the import of another one stumbled over, if it did."""
    frames = traceback.walk_tb(error.__traceback__)
    names = [str(frame.f_globals.get("__name__")) for frame, _ in frames]
    if isinstance(error, ModuleNotFoundError):
        names.append(error.name or "")
    roots = [name.partition(".")[0] for name in names]
    return next((root for root in reversed(roots) if root in broken), None)


def torch_release_of_torchvision() -> str | None:
    """The release of torch that the installed torchvision was built for, if it says so."""
    try:
        requirements = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError:
        return None
    matches = (re.match(r"torch\s*\(?==\s*([\w.]+)", line) for line in requirements)
    return next((match[1] for match in matches if match), None)


def describe_cuda(torch: ModuleType) -> str:
    if not torch.cuda.is_available():
        return f"no device (torch is built for {torch.version.cuda or 'the CPU only'})"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.version.cuda} ({', '.join(devices)})"


# --------------------------------------------------------------------- operators and detector


def check_operators(torch: ModuleType, device: str, report: Report) -> bool:
    """Says what serves mmcv's operators and tries one of them."""
    from halvit_mm import compat

    def suppress() -> None:
        try:
            from mmcv.ops import nms
        except ImportError as error:
            raise ImportError(
                f"mmcv's compiled operators do not load with torch {torch.__version__} ({error}); "
                "reinstall mmcv for this torch, or uninstall it and run `make install`"
            ) from error
        boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9], [20.0, 20, 30, 30]])
        kept = nms(boxes.to(device), torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1]
        if kept.tolist() != [0, 2]:
            raise RuntimeError(f"boxes [0, 2] should be kept and {kept.tolist()} were")

    report.line("served by", compat.backend())
    return report.attempt(f"nms on {device}", suppress)[0]


def check_detector(torch: ModuleType, device: str, report: Report) -> None:
    """Builds a small Mask R-CNN of this repository's parts, goes back and forth and predicts."""

    def loss() -> Any:
        losses = model(**model.data_preprocessor(data, training=True), mode="loss")
        total = model.parse_losses(losses)[0]
        if not torch.isfinite(total):
            raise RuntimeError(f"the loss is {total.item()}")
        return total

    def backward() -> None:
        total.backward()
        gradients = [parameter.grad for parameter in model.backbone.parameters()]
        if not any(grad is not None and grad.abs().max() > 0 for grad in gradients):
            raise RuntimeError("no gradient reaches the backbone")

    def predict() -> None:
        model.eval()
        masks = model.test_step(data)[0].pred_instances.masks
        if masks.shape[1:] != (SIDE, SIDE):
            raise RuntimeError(f"masks have the shape {tuple(masks.shape)}")

    works, model = report.attempt("build", lambda: build_detector().to(device))
    if not works:
        return
    data = synthetic_batch(torch)
    works, total = report.attempt("forward, loss", loss)
    if works:
        report.attempt("backward", backward)
    report.attempt("predict", predict)


def build_detector() -> Any:
    """The repository's own Mask R-CNN with a backbone of two blocks and random weights."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    model = Config.fromfile(CONFIG).model
    model.backbone.update(
        arch=dict(dim=48, depth=2, num_heads=3), window_size=4, global_blocks=(1,)
    )
    model.neck.in_channels = 48
    model.roi_head.bbox_head.fc_out_channels = 64
    return MODELS.build(model)


def synthetic_batch(torch: ModuleType) -> dict[str, list]:
    """One image of noise with one bright square, annotated, as a data loader yields it."""
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    start, end = SIDE // 4, SIDE // 2
    image = torch.randint(0, 100, (3, SIDE, SIDE), dtype=torch.uint8)
    image[:, start:end, start:end] += 150
    mask = np.zeros((1, SIDE, SIDE), dtype=np.uint8)
    mask[:, start:end, start:end] = 1
    shape = (SIDE, SIDE)
    sample = DetDataSample(
        metainfo=dict(img_id=0, img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[start, start, end, end]], dtype=torch.float32),
        labels=torch.tensor([0]),
        masks=BitmapMasks(mask, *shape),
    )
    return dict(inputs=[image], data_samples=[sample])


if __name__ == "__main__":
    sys.exit(main())
