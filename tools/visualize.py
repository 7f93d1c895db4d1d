"""Shows what goes on inside a classifier or detector, a PNG for each image and kind of picture.

attention: what the layers of a vision transformer look at, by head or on average, or rolled out
through the layers. features: what layers or stages give, as colours and channel by channel.
gradcam: which places speak for a class. Images that cannot be read are passed over, listed at the
end, and make the exit status 3.
"""

import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options

SOME_UNREADABLE = 3
KINDS = ("attention", "features", "gradcam")


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of the model")
    parser.add_argument("checkpoint", help="its weights")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, folder of images at any depth, quoted pattern such as 'a/**/*.jpg', or - for "
        "a list on standard input, a path a line",
    )
    parser.add_argument(
        "--out", default="inside", metavar="DIR", help="folder to write (default: inside)"
    )
    parser.add_argument(
        "--what",
        nargs="+",
        choices=[*KINDS, "all"],
        default=["all"],
        help="kinds of pictures (default: all that the model has)",
    )
    parser.add_argument(
        "--layers",
        type=int,
        nargs="+",
        metavar="N",
        help="layers of a vision transformer, or stages of a ResNet, from 0, of attention and "
        "features (default: attention all, rollout the last, features up to four)",
    )
    parser.add_argument(
        "--heads",
        type=_heads,
        default="mean",
        metavar="all|mean|N",
        help="heads of attention, side by side, averaged or one of them (default: mean)",
    )
    parser.add_argument(
        "--query",
        type=_query,
        metavar="Y,X|cls|mean",
        help="whose attention: a place in pixels of the image, the class token, or all places: "
        "how much each is looked at (default: cls; mean of models without a class token)",
    )
    parser.add_argument(
        "--rollout",
        action="store_true",
        help="follow attention through all layers down to the image (Abnar and Zuidema, 2020)",
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME|N",
        help="class that Grad-CAM explains (default: the surest prediction of each image)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        metavar="N",
        help="layer or stage that Grad-CAM looks at (default: of ResNets the last, else the last "
        "but one)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 (default: cpu)")
    add_cfg_options(parser, example="model.test_cfg.rcnn.max_per_img=300")
    args = parser.parse_args()

    # Cheap checks come before imports that take seconds.
    from halvit_mm.engine.preflight import check_folder
    from halvit_mm.inference.inputs import find_inputs

    out = Path(args.out)
    inputs = find_inputs(args.inputs, out=out, listed=sys.stdin if "-" in args.inputs else ())
    check_folder(out, "--out")
    from halvit_mm.inference import load_model
    from halvit_mm.visualization.inside import Looking
    from halvit_mm.visualization.inside_files import look_into_files

    loaded = load_model(
        args.config, args.checkpoint, device=args.device, cfg_options=args.cfg_options
    )
    kinds = [kind for kind in KINDS if kind in args.what]
    if "all" in args.what:
        attends = hasattr(loaded.model.backbone, "attention_layers")
        kinds = [kind for kind in KINDS if attends or kind != "attention"]
        if not attends:
            print(f"{type(loaded.model.backbone).__name__} has no attention; the rest is drawn")
    summary = look_into_files(
        loaded,
        inputs,
        out,
        kinds,
        Looking(
            layers=args.layers and tuple(args.layers),
            heads=args.heads,
            query=args.query,
            rollout=args.rollout,
            class_name=args.class_name,
            cam_layer=args.layer,
        ),
    )
    print(f"{len(summary.pages)} picture{'' if len(summary.pages) == 1 else 's'}: {out}")
    if summary.problems:
        print(f"{len(summary.problems)} of the inputs could not be used:", file=sys.stderr)
        for problem in summary.problems:
            print(f"  {problem}", file=sys.stderr)
        return SOME_UNREADABLE
    return 0


def _heads(text: str) -> str | int:
    if text in ("all", "mean"):
        return text
    if text.isdecimal():
        return int(text)
    raise ArgumentTypeError(f"{text} is neither all nor mean nor the number of a head")


def _query(text: str) -> str | tuple[float, float]:
    if text in ("cls", "mean"):
        return text
    try:
        y, x = (float(number) for number in text.split(","))
    except ValueError:
        raise ArgumentTypeError(
            f"{text} is neither cls nor mean nor a place Y,X, such as 120,200"
        ) from None
    return y, x


if __name__ == "__main__":
    run(main)
