"""Memory and time of exported models in onnxruntime, side by side.

python tools/measure_onnx.py half.onnx dense.onnx
python tools/measure_onnx.py half.onnx half.onnx:speed timm:vit_base_patch16_224 --out sizes.json

Ratios are to the last model. `FILE:speed` lets onnxruntime lay out shared weights for each use;
`timm:NAME` exports a model of timm first, by the same exporter, with random weights.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a file or timm:NAME")
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each model (default: 20)")
    parser.add_argument("--out", metavar="FILE.json", help="keep the figures in this file")
    args = parser.parse_args()
    for option in ("batch", "threads", "rounds"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} {getattr(args, option)}: give 1 or more")

    from halvit_mm.benchmark.machine import describe
    from halvit_mm.deploy.measure import measure, table

    with TemporaryDirectory() as folder:
        models = [_split(name, Path(folder)) for name in args.models]
        measured = measure(models, batch=args.batch, threads=args.threads, rounds=args.rounds)
    print(table(measured))
    if args.out:
        content = dict(
            machine=describe(), batch=args.batch, threads=args.threads,
            models=[{**m.as_data(), "path": Path(m.path).name} for m in measured],
        )  # fmt: skip
        Path(args.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _split(name: str, folder: Path) -> tuple[str, str]:
    """The file, and what it is to prefer."""
    if name.startswith("timm:"):
        from halvit_mm.deploy.peers import export_timm

        return str(export_timm(name.removeprefix("timm:"), folder)), "memory"
    path, _, prefer = name.rpartition(":")
    return (path, prefer) if prefer in ("memory", "speed") and path else (name, "memory")


if __name__ == "__main__":
    run(main)
