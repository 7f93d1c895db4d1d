"""Reports everything that is wrong with data sets at once: files, entries, boxes, masks, images.

    python tools/check_dataset.py CONFIG --pictures faults
    python tools/check_dataset.py annotations.json --images FOLDER --json report.json

Takes a config, with all its sets for training, validation and test, or an annotation file in COCO's
format. Each fault is refused, as training would, or dealt with by a rule that is named beside it.
The exit status is 0 if training can begin and 2 if something is refused; with --strict also 2 if a
rule has to deal with anything.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="CONFIG|FILE.json", help="config, or annotation file")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="of an annotation file")
    parser.add_argument(
        "--evaluation",
        action="store_true",
        help="an annotation file is for validation or test: COCO's metric must read it as well",
    )
    parser.add_argument(
        "--examples", type=int, default=5, metavar="N", help="of each kind of fault (default: 5)"
    )
    parser.add_argument(
        "--decode", action="store_true", help="decode every image, rather than look at its ends"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="draw examples there, a page for each set"
    )
    parser.add_argument("--strict", action="store_true", help="see above")
    from halvit_mm.engine.arguments import add_cfg_options

    add_cfg_options(parser, example="train_dataloader.dataset.data_root=DIR")
    args = parser.parse_args()
    is_file = args.source.endswith(".json")
    if is_file and args.cfg_options:
        parser.error("--cfg-options belongs to a config")
    if not is_file and (args.images or args.evaluation):
        parser.error("--images and --evaluation belong to an annotation file; a config has them")

    from mmengine.utils import track_iter_progress

    from halvit_mm.datasets.fault_pictures import draw_pages
    from halvit_mm.datasets.report import report_config, report_file
    from halvit_mm.engine.config_errors import load_config
    from halvit_mm.files import whole_file

    decode = partial(track_iter_progress, file=sys.stderr) if args.decode else None
    if is_file:
        reports = [
            report_file(Path(args.source), args.images, evaluated=args.evaluation, decode=decode)
        ]
    else:
        reports = report_config(load_config(args.source, args.cfg_options), decode=decode)
    refused = any(report.refused for report in reports)
    status = 2 if refused or (args.strict and any(report.handled for report in reports)) else 0
    for report in reports:
        print("\n".join(report.lines(args.examples)), end="\n\n")
    if args.json:
        content = dict(status=status, sets=[report.as_data() for report in reports])
        with whole_file(args.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if args.pictures:
        for page in draw_pages(reports, args.pictures):
            print(f"pictures: {page}")
    print("refused: correct what is named above" if refused else "training can begin")
    return status


if __name__ == "__main__":
    run(main)
