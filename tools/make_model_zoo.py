"""Trains the models of the zoo, makes files of them to hand out, and notes what these reach.

Each model is trained in work_dirs/zoo/NAME, going on where a former run stopped, published in half
precision in work_dirs/zoo/published, and tested so and as trained; docs/results/zoo/NAME.json has
the outcome. What is there already is not made again. The table of docs/model_zoo.md and OpenMMLab's
index, model-index.yml, are written anew.
"""

import argparse
import logging
import os
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    from halvit_mm.carried import carried
    from halvit_mm.errors import UserError
    from halvit_mm.zoo.entries import ENTRIES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENTRIES)}")
    parser.add_argument(
        "--index", action="store_true", help="train nothing; write the page and the index only"
    )
    args = parser.parse_args()
    for name in args.names:
        if name not in ENTRIES:
            raise UserError(f"{name}: there is no such model; the zoo has {', '.join(ENTRIES)}")
    from halvit_mm.zoo.making import check, make
    from halvit_mm.zoo.metafiles import write_metafiles
    from halvit_mm.zoo.page import write_page

    os.chdir(carried("configs").parent)  # where data sets lie, and what paths in checkpoints mean
    root = Path()
    results, work_dir = root / "docs/results/zoo", root / "work_dirs/zoo"
    if not args.index:
        entries = [ENTRIES[name] for name in args.names or ENTRIES]
        check(entries, root=root, work_dir=work_dir)
        for entry in entries:
            make(entry, root=root, work_dir=work_dir, results=results)
    logging.disable(logging.INFO)  # of each model that is built to be counted
    write_page(root / "docs/model_zoo.md", results)
    write_metafiles(root)


if __name__ == "__main__":
    run(main)
