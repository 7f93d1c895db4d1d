"""What fewer bits cost: accuracy on the config's test set at each precision, through onnxruntime.

python tools/measure_precision.py configs/halving/half_vit_cifar10.py iter_4000.pth
python tools/measure_precision.py CONFIG CKPT --precisions fp16 int8-dynamic --images 2000

Compares with PyTorch, and the files with those of the dense twin at the same precision.
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
    precisions = ("fp32", "fp16", "int8-weights", "int8-dynamic")
    parser.add_argument("config", help="config of a detector or classifier with a test set")
    parser.add_argument("checkpoint", help="its weights")
    parser.add_argument(
        "--precisions", nargs="+", choices=precisions, default=precisions, help="default: all"
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="a classifier's images, in equal steps"
    )
    parser.add_argument("--out", metavar="FILE.json", help="keep the figures in this file")
    from halvit_mm.engine.arguments import add_cfg_options

    add_cfg_options(parser, example="test_dataloader.dataset.data_root=data/cifar10")
    args = parser.parse_args()

    from halvit_mm.benchmark.machine import describe
    from halvit_mm.deploy.accuracy import measure_accuracy, table
    from halvit_mm.files import whole_file
    from halvit_mm.inference import load_model

    loaded = load_model(args.config, args.checkpoint, cfg_options=args.cfg_options)
    results = measure_accuracy(loaded, args.precisions, images=args.images)
    print(table(results))
    if args.out:
        content = dict(machine=describe(), results=[r.as_data() for r in results])
        with whole_file(Path(args.out)) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
