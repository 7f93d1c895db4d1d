"""Measures training steps of several configs side by side: time, its ratio, and peak memory.

Each config trains on the first batch of its training data in a process of its own, and they take
turns; the first one is what the others are compared with.
"""

import argparse
import json
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each config")
    parser.add_argument("--steps", type=int, default=2, help="training steps of a turn")
    parser.add_argument("--threads", type=int, help="threads of each process")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    add_cfg_options(parser, example="train_dataloader.batch_size=4")
    args = parser.parse_args()

    import torch

    from halvit_mm.analysis.training_steps import measure_training
    from halvit_mm.engine.config_errors import load_config

    configs = [load_config(path, args.cfg_options) for path in args.configs]
    figures = measure_training(configs, rounds=args.rounds, steps=args.steps, threads=args.threads)
    first = figures[0].median
    print(f"{'s a step':>10} {'min':>8} {'max':>8} {'ratio':>6} {'peak MiB':>9}  config")
    for path, f in zip(args.configs, figures, strict=True):
        print(
            f"{f.median:10.3f} {min(f.seconds):8.3f} {max(f.seconds):8.3f} {f.median / first:6.2f} "
            f"{f.peak_mib:9.0f}  {path}"
        )
    if args.json:
        hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        rows = {
            path: {"seconds": f.seconds, "peak_mib": f.peak_mib}
            for path, f in zip(args.configs, figures, strict=True)
        }
        about = {"torch": torch.__version__, "device": hardware, "threads": args.threads}
        args.json.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
