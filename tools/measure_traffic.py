"""Measures what processes that train one model all-reduce in each step, against dense twins.

Each classifier trains for one step on noise, as one of several processes would; no data and no
second process are needed.
"""

import argparse
import json
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="configs of classifiers")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    import torch

    from halvit_mm.analysis.traffic import measure_traffic
    from halvit_mm.engine.config_errors import load_config
    from halvit_mm.engine.preflight import check_folder
    from halvit_mm.files import whole_file

    if args.json:
        check_folder(args.json.parent, "--json")
    figures = {path: measure_traffic(load_config(path)) for path in args.configs}
    rows = {}
    print(f"{'MB a step':>10} {'dense twin':>11} {'ratio':>6}  config")
    for path, (ours, dense) in figures.items():
        rows[path] = dict(vars(ours))
        twin, ratio = "–", "–"
        if dense is not None:
            rows[path] |= dict(dense_twin=vars(dense), ratio=ours.bytes / dense.bytes)
            twin, ratio = f"{dense.bytes / 1e6:.1f}", f"{ours.bytes / dense.bytes:.3f}"
        print(f"{ours.bytes / 1e6:10.1f} {twin:>11} {ratio:>6}  {path}")
    if args.json:
        about = {"torch": torch.__version__, "results": rows}
        with whole_file(args.json) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
