"""Compares our models with their dense peers, side by side: time, memory and bytes.

The models of a comparison take turns on the same input, each in a process of its own, and what
counts is the ratio of their times in each round. `--list` names the comparisons. What fails is told
in the report, the rest is measured, and the status is 2.

  tools/benchmark.py halvit_tiny --modes training --batch 8 --out work_dirs/benchmark
  tools/benchmark.py --from first/benchmark.json second/benchmark.json --out work_dirs/benchmark
"""

import argparse
from dataclasses import replace
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="comparisons (default: all)")
    parser.add_argument("--list", action="store_true", help="name the comparisons, measure nothing")
    parser.add_argument(
        "--from", dest="files", nargs="+", type=Path, metavar="FILE",
        help="measure nothing, but show what such JSON files hold, together",
    )  # fmt: skip
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--modes",
        nargs="+",
        choices=["inference", "training", "sizes", "start-up"],
        help="time and memory of inference, of training steps; bytes; time until a model is there "
        "(default: all that a comparison has)",
    )
    what.add_argument(
        "--peers",
        nargs="+",
        metavar="WORD",
        help="only peers with one of these words in their names, such as timm: the processes of "
        "all share the memory",
    )
    what.add_argument(
        "--batch",
        nargs="+",
        type=int,
        metavar="N",
        help="images of a step (default: 1 8 32; detectors 1)",
    )
    what.add_argument(
        "--dtype",
        nargs="+",
        choices=["fp32", "bf16"],
        default=["fp32"],
        help="bf16: automatic mixed precision",
    )
    what.add_argument("--backend", nargs="+", choices=["eager", "compile"], default=["eager"])
    what.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    what.add_argument(
        "--channels-last", action="store_true", help="memory format of convolutional models"
    )
    what.add_argument(
        "--roofline",
        action="store_true",
        help="also the share of this machine's peak that each model reaches",
    )
    what.add_argument(
        "--quick",
        action="store_true",
        help="small models and few rounds: shows in a minute that everything works",
    )
    how = parser.add_argument_group("how it is measured")
    how.add_argument("--threads", type=int, metavar="N", help="of a process (default: all cores)")
    how.add_argument("--rounds", type=int, metavar="N", help="turns of each model (default: 7)")
    how.add_argument(
        "--steps", type=int, metavar="N", help="steps of a turn (default: as many as take 0.3 s)"
    )
    out = parser.add_argument_group("what is written")
    out.add_argument("--json", type=Path, metavar="FILE", help="all values, after every case anew")
    out.add_argument("--markdown", type=Path, metavar="FILE", help="the tables that are printed")
    out.add_argument("--chart", type=Path, metavar="FILE", help="PNG of all ratios")
    out.add_argument("--out", type=Path, metavar="DIR", help="all three, in this folder")
    args = parser.parse_args()
    for option in ("batch", "threads", "rounds", "steps"):
        value = getattr(args, option)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and number < 1:
                parser.error(f"--{option} {number}: give 1 or more")
    if args.files and args.names:
        parser.error("--from shows all that the files hold; leave out the names")

    from halvit_mm.benchmark.comparisons import COMPARISONS, QUICK
    from halvit_mm.benchmark.machine import cores
    from halvit_mm.benchmark.measure import Settings, choose
    from halvit_mm.benchmark.results import Results, rows
    from halvit_mm.benchmark.run import Outputs, benchmark, render

    among = QUICK if args.quick else COMPARISONS
    if args.list:
        print("\n".join(among))
        return 0
    outputs = Outputs.in_folder(args.out) if args.out else Outputs()
    for option in ("json", "markdown", "chart"):
        if path := getattr(args, option):
            outputs = replace(outputs, **{option: path})
    if args.files:
        results = Results.read(args.files)
    else:
        settings = Settings(
            modes=args.modes,
            peers=args.peers,
            batches=args.batch,
            dtypes=args.dtype,
            backends=args.backend,
            device=args.device,
            channels_last=args.channels_last,
            threads=args.threads or cores(),
            rounds=args.rounds or (2 if args.quick else 7),
            steps=args.steps,
        )
        results = benchmark(
            choose(args.names, among, settings),
            settings,
            outputs=outputs,
            roofline=args.roofline or args.quick,
            tell=lambda text: print(text, flush=True),
        )
    print("\n" + render(results, outputs), end="")
    return 2 if any(row.fault for row in rows(results)) else 0


if __name__ == "__main__":
    run(main)
