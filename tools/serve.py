"""Serves a page to try models on pictures, in a browser, on this machine and without a network.

Models are CONFIG CHECKPOINT pairs, exported FILE.onnx alone, or CONFIG FILE.onnx:

  tools/serve.py configs/nuclei/mask_rcnn_halvit_small_nuclei.py epoch_10.pth --examples pictures
  tools/serve.py CONFIG CHECKPOINT CONFIG CHECKPOINT model.onnx

The page asks for no password; by default only this machine reaches it. Ctrl-C stops.
"""

import argparse
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="configs, each with its checkpoint; ONNX files"
    )
    parser.add_argument("--device", default="cpu", help="where models run (default: cpu)")
    parser.add_argument(
        "--examples", type=Path, metavar="FOLDER", help="pictures that visitors can pick"
    )
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: this machine alone)"
    )
    server.add_argument(
        "--port", type=int, default=7860, help="port to listen at; 0: a free one (default: 7860)"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-size-mb",
        type=float,
        default=20,
        metavar="N",
        help="size of a picture's file in megabytes (default: 20)",
    )
    limits.add_argument(
        "--max-side",
        type=int,
        default=1600,
        metavar="N",
        help="longest side in pixels; larger pictures are scaled down to it (default: 1600)",
    )
    limits.add_argument(
        "--keep-minutes",
        type=float,
        default=60,
        metavar="N",
        help="age from which on pictures are deleted (default: 60)",
    )
    limits.add_argument(
        "--keep-mb",
        type=float,
        default=1024,
        metavar="N",
        help="megabytes of all pictures together; the oldest are deleted first (default: 1024)",
    )
    args = parser.parse_args()
    if not 0 <= args.port <= 65535:
        parser.error(f"--port {args.port}: give 0 to 65535")
    if args.max_size_mb <= 0 or args.max_side < 32:
        parser.error("give --max-size-mb above 0 and --max-side of 32 or more")
    if args.keep_minutes <= 0 or args.keep_mb < args.max_size_mb:
        parser.error("give --keep-minutes above 0 and --keep-mb of --max-size-mb or more")

    from halvit_mm.serving import Limits, model_sources, serve

    serve(
        model_sources(args.files),
        host=args.host,
        port=args.port,
        device=args.device,
        examples=args.examples,
        limits=Limits(
            megabytes=args.max_size_mb,
            side=args.max_side,
            keep_minutes=args.keep_minutes,
            keep_megabytes=args.keep_mb,
        ),
    )


if __name__ == "__main__":
    run(main)
