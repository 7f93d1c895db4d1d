"""Writes a detector, classifier or backbone to a program of PyTorch with each weight stored once.

python tools/export_program.py configs/mask_rcnn_halvit_1x_coco.py epoch_12.pth detector.pt2
python tools/export_program.py CONFIG CKPT classifier.pt2 --core-aten --images photographs
python tools/export_program.py CONFIG CKPT classifier.torchscript

*.pt2 is a graph of torch.export, which torch.export.load reads without this project; *.pt and
*.torchscript are TorchScript. The file is kept only if it gives the model's outputs on real images
and no weight is in it twice.
"""

import argparse

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of a detector or classifier")
    parser.add_argument("checkpoint", help="its weights")
    parser.add_argument(
        "out", metavar="OUT", help="file *.pt2, *.pt or *.torchscript; must not exist"
    )
    parser.add_argument(
        "--part",
        choices=("model", "backbone"),
        default="model",
        help="what to export; a backbone gives features (default: the whole model)",
    )
    parser.add_argument(
        "--core-aten",
        action="store_true",
        help="break operators down to PyTorch's core set, for other runtimes such as ExecuTorch",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="images to check the outputs on (default: scikit-learn's two photographs)",
    )
    parser.add_argument(
        "--any-size",
        action="store_true",
        help="make one program for all sizes of images, as detectors always have",
    )
    from halvit_mm.engine.arguments import add_cfg_options

    add_cfg_options(parser, example="model.test_cfg.rcnn.score_thr=0.3")
    args = parser.parse_args()

    from halvit_mm.checkpoints.saving import new_file
    from halvit_mm.deploy.export_programs import export_program
    from halvit_mm.deploy.sample_images import sample_images
    from halvit_mm.inference import load_model

    new_file(args.out, args.checkpoint)  # before what takes time
    images = sample_images(args.images)
    loaded = load_model(args.config, args.checkpoint, cfg_options=args.cfg_options)
    exported = export_program(
        loaded,
        args.out,
        images=images,
        part=args.part,
        core_aten=args.core_aten,
        any_size=args.any_size or None,
    )
    print(exported.summary())


if __name__ == "__main__":
    run(main)
