"""Strips a training checkpoint to its weights and plain facts, to be handed out."""

from argparse import ArgumentParser

import _path  # noqa: F401

from halvit_mm.checkpoints.publish import publish
from halvit_mm.cli import run


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("input", help="training checkpoint")
    parser.add_argument("output", help="file to write; digits of its SHA-256 go behind the name")
    parser.add_argument("--ema", action="store_true", help="insist on averaged weights")
    parser.add_argument("--fp16", action="store_true", help="store half precision")
    args = parser.parse_args()
    print(publish(args.input, args.output, ema=args.ema, fp16=args.fp16))


if __name__ == "__main__":
    run(main)
