"""Counts parameters, their uses, multiply-accumulates and checkpoint bytes of configs' models.

A config that cannot be counted is named on stderr, the others are counted, and the status is 2.
"""

from argparse import ArgumentParser, ArgumentTypeError

import _path  # noqa: F401

from halvit_mm.analysis import report
from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "configs", nargs="+", metavar="CONFIG", help="config file, or folder of configs"
    )
    parser.add_argument(
        "--input-size",
        nargs=2,
        type=_side,
        metavar=("H", "W"),
        help="size of the image in pixels before padding (default: what the config's pipelines "
        "say, or else 224 224 for classifiers and 800 1333 for detectors)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - prints only JSON")
    add_cfg_options(parser, example="model.backbone.depth=101")
    args = parser.parse_args()
    complete = report(
        args.configs,
        options=args.cfg_options,
        size=args.input_size and tuple(args.input_size),
        json_file=args.json,
    )
    return 0 if complete else 2


def _side(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"a side is a whole number of pixels above 0, not {text!r}")
    return int(text)


if __name__ == "__main__":
    run(main)
