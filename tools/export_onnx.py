"""Writes a detector, classifier or backbone to an ONNX file that holds each shared weight once.

python tools/export_onnx.py configs/mask_rcnn_halvit_1x_coco.py epoch_12.pth detector.onnx
python tools/export_onnx.py CONFIG CKPT small.onnx --precision int8-weights --images photographs
python tools/export_onnx.py CONFIG CKPT features.onnx --part backbone --any-size

The file is kept only if it gives PyTorch's outputs on real images and no weight is in it twice.
halvit_mm.deploy.OnnxModel and tools/predict.py run it.
"""

import argparse

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of a detector or classifier")
    parser.add_argument("checkpoint", help="its weights")
    parser.add_argument("out", metavar="OUT.onnx", help="file to write; must not exist")
    parser.add_argument(
        "--part",
        choices=("model", "backbone"),
        default="model",
        help="what to export; a backbone gives features (default: the whole model)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8-weights", "int8-dynamic"),
        default="fp32",
        help="what weights are stored in; int8-dynamic computes in 8 bits as well",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="images to check the outputs on (default: scikit-learn's two photographs)",
    )
    parser.add_argument(
        "--num-images",
        type=int,
        default=4,
        metavar="N",
        help="how many of them, in equal steps (default: 4)",
    )
    parser.add_argument(
        "--any-size",
        action="store_true",
        help="make one graph for all sizes of images, as detectors always have",
    )
    parser.add_argument(
        "--external-data",
        action="store_true",
        help="keep the weights in OUT.onnx.data, which is mapped into memory, not copied",
    )
    from halvit_mm.engine.arguments import add_cfg_options

    add_cfg_options(parser, example="model.test_cfg.rcnn.score_thr=0.3")
    args = parser.parse_args()
    if args.num_images < 1:
        raise UserError(f"--num-images {args.num_images}: give 1 or more")

    from halvit_mm.checkpoints.saving import new_file
    from halvit_mm.deploy.export import export_onnx
    from halvit_mm.deploy.sample_images import sample_images
    from halvit_mm.inference import load_model

    new_file(args.out, args.checkpoint)  # before what takes time
    images = sample_images(args.images, limit=args.num_images)
    loaded = load_model(args.config, args.checkpoint, cfg_options=args.cfg_options)
    exported = export_onnx(
        loaded,
        args.out,
        images=images,
        part=args.part,
        precision=args.precision,
        any_size=args.any_size or None,
        external_data=args.external_data,
    )
    print(exported.summary())


if __name__ == "__main__":
    run(main)
