"""Measures what windowed attention saves: peak memory and time of HaLViT on a large image.

usage: python tools/measure_windows.py [--arch tiny] [--size 800 1333] [--window 14] [--json FILE]

Each variant runs a training step (forward and backward) in a process of its own. Memory is the peak
above what the process held before the step: allocated memory on a CUDA device, resident memory on
the CPU.
"""

import argparse
import json
import multiprocessing
import platform
import time
from contextlib import nullcontext
from pathlib import Path

import _path  # noqa: F401

#: Whether attention is fused (and never holds its N × N matrix) or written out.
VARIANTS = {"fused attention": True, "plain attention": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--window", type=int, default=14)
    parser.add_argument("--global-blocks", type=int, nargs="*", default=(2, 5, 8, 11))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    print(f"HaLViT {args.arch}, {args.batch} × {args.size[0]} × {args.size[1]}, training step")
    print(f"{'':24} {'all global':>18} {'windowed':>18}   ratio of memory, time")
    rows = {}
    for name, fused in VARIANTS.items():
        pair = {}
        for layout, window in (("global", 0), ("windowed", args.window)):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                pair[layout] = pool.apply(measure, (vars(args), window, fused))
        rows[name] = pair
        cells = [f"{p['peak_mib']:8.0f} MiB {p['seconds']:4.1f} s" for p in pair.values()]
        ratios = [pair["windowed"][k] / pair["global"][k] for k in ("peak_mib", "seconds")]
        print(f"{name:24} {cells[0]:>18} {cells[1]:>18}   {ratios[0]:.2f}, {ratios[1]:.2f}")
    if args.json:
        import torch

        options = {k: v for k, v in vars(args).items() if k != "json"}
        versions = {"torch": torch.__version__, "machine": platform.machine()}
        args.json.write_text(json.dumps({**options, **versions, "results": rows}, indent=1) + "\n")


def measure(args: dict, window: int, fused: bool) -> dict[str, float]:
    """Peak memory above the start in MiB and seconds of one training step."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from halvit_mm.analysis.training_steps import resident_memory
    from halvit_mm.backbones import HaLViT

    torch.set_num_threads(args["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = HaLViT(
        arch=args["arch"],
        with_cls_token=False,
        out_type="featmap",
        window_size=window,
        global_blocks=args["global_blocks"],
    ).to(device)
    images = torch.randn(args["batch"], 3, *args["size"], device=device)
    model(images[:, :, :32, :32])[0].sum().backward()  # libraries load before the measurement
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident_memory()
    start = time.perf_counter()
    with nullcontext() if fused else sdpa_kernel(SDPBackend.MATH):
        model(images)[0].sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resident_memory()
    return {"peak_mib": (peak - before) / 2**20, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
