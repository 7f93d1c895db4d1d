"""Measures training steps of several configs side by side: time, throughput, peak memory.

Each config trains on the first batch of its training data in a process of its own, and they take
turns; the first one is what the others are compared with. `hours` is what the config's whole
schedule takes at this throughput, without loading data and without validation.
"""

import argparse
import json
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each config")
    parser.add_argument("--steps", type=int, default=2, help="training steps of a turn")
    parser.add_argument("--threads", type=int, help="threads of each process")
    parser.add_argument("--amp", choices=["float16", "bfloat16"], help="mixed precision")
    parser.add_argument(
        "--synthetic",
        action="store_true",
        help="train classifiers on noise, brought to its size by their pipelines: needs no data",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="images of an epoch (default: those of the data; ImageNet has 1281167)",
    )
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="hours on N such GPUs, if they scale fully"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    add_cfg_options(parser, example="train_dataloader.batch_size=4")
    args = parser.parse_args()
    for option in ("rounds", "steps", "threads", "images", "gpus"):
        value = getattr(args, option)
        if value is not None and value < 1:
            parser.error(f"--{option} {value}: give 1 or more")

    import torch

    from halvit_mm.analysis.training_steps import measure_training
    from halvit_mm.engine.config_errors import load_config
    from halvit_mm.engine.mixed_precision import set_mixed_precision

    configs = [load_config(path, args.cfg_options) for path in args.configs]
    for cfg in configs:
        set_mixed_precision(cfg, args.amp)
    figures = measure_training(
        configs,
        rounds=args.rounds,
        steps=args.steps,
        threads=args.threads,
        synthetic=args.synthetic,
    )
    hours = [
        f.schedule_hours(cfg.train_cfg, images=args.images, gpus=args.gpus)
        for f, cfg in zip(figures, configs, strict=True)
    ]
    first = figures[0].median
    print(
        f"{'s a step':>10} {'min':>8} {'max':>8} {'ratio':>6} {'images/s':>9} {'peak MiB':>9} "
        f"{'hours':>8}  config"
    )
    for path, f, h in zip(args.configs, figures, hours, strict=True):
        print(
            f"{f.median:10.3f} {min(f.seconds):8.3f} {max(f.seconds):8.3f} {f.median / first:6.2f} "
            f"{f.images_per_second:9.1f} {f.peak_mib:9.0f} {'–' if h is None else f'{h:.1f}':>8}  "
            f"{path}"
        )
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    scaling = "" if args.gpus == 1 else f"; hours on {args.gpus} of them, if they scale fully"
    print(f"measured on one {hardware}{scaling}")
    if args.json:
        rows = {
            path: {
                "seconds": f.seconds,
                "images_per_second": f.images_per_second,
                "peak_mib": f.peak_mib,
                "hours": h,
            }
            for path, f, h in zip(args.configs, figures, hours, strict=True)
        }
        about = {
            "torch": torch.__version__,
            "device": hardware,
            "threads": args.threads,
            "amp": args.amp,
            "gpus": args.gpus,
        }
        args.json.write_text(json.dumps({**about, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
