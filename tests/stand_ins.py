"""Small files for the names that the pages use: data sets, images, checkpoints of any origin."""

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import official_half_cnn
import torch
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from processes import run
from small_configs import write_small
from small_minivit import published
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, make_coco, make_folders

from halvit_mm.inference import load_model
from halvit_mm.inference.videos import video_file

ROOT = Path(__file__).resolve().parent.parent


def make_data(folder: Path) -> Path:
    """Writes the data sets of the configs, a few drawn images each."""
    from mmdet.datasets import CocoDataset
    from mmpretrain.datasets.categories import CIFAR10_CATEGORIES

    from halvit_mm.datasets.digits import make_digits

    for split in ("train", "val"):
        coco = CocoDataset.METAINFO["classes"]
        _coco_split(folder / "coco", f"instances_{split}2017.json", f"{split}2017", coco)
        _coco_split(folder / "nuclei", f"instances_{split}.json", split, ["nucleus"])
        _folders(folder / "tinyimagenet100" / split, [f"n{i:08}" for i in range(100)], 1)
    for split in ("train", "test"):
        _folders(folder / "cifar10" / split, CIFAR10_CATEGORIES, 2)
    _imagenet(folder / "imagenet")
    make_digits(folder / "digits", num_train=4, num_val=2)
    return folder


def _coco_split(folder: Path, annotations: str, images: str, classes: Sequence[str]) -> None:
    made = make_coco(folder / images / "made", images=2)
    content = json.loads((made / "annotations.json").read_text())
    content["categories"] = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]
    for annotation in content["annotations"]:
        annotation["category_id"] = min(annotation["category_id"], len(classes))
    for image in content["images"]:
        (made / "images" / image["file_name"]).rename(folder / images / image["file_name"])
    shutil.rmtree(made)
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / annotations).write_text(json.dumps(content))


def _folders(folder: Path, classes: Sequence[str], images: int) -> None:
    rng = np.random.default_rng(0)
    for name in classes:
        for i in range(images):
            _picture(folder / name / f"{i}.jpg", (32, 32), rng)


def _imagenet(folder: Path) -> None:
    """Four images in two flat folders, with lists."""
    (folder / "meta").mkdir(parents=True)
    for split in ("train", "val"):
        for i in range(4):
            _picture(folder / split / f"{i}.JPEG", (120, 160), np.random.default_rng(i))
        lines = [f"{i}.JPEG {i * 300}\n" for i in range(4)]
        (folder / "meta" / f"{split}.txt").write_text("".join(lines))


def _picture(path: Path, shape: tuple[int, int], rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (*shape, 3), dtype=np.uint8)).save(path)


def make(path: Path, sandbox: Path) -> bool:
    """Writes what a page means by the name of a file or folder, if it is known here.

    Args:
        path: Where to write it, below ``sandbox``.
        sandbox: The folder in which the page's commands run, with ``configs`` and ``data``.
    """
    name = path.relative_to(sandbox).as_posix()
    for pattern, maker in MAKERS.items():
        if re.fullmatch(pattern, name):
            path.parent.mkdir(parents=True, exist_ok=True)
            maker(path, sandbox)
            return True
    return False


def _trained(path: Path, sandbox: Path) -> None:
    """The last checkpoint of the run, if there was one, else what its training would start from."""
    saved = sorted(path.parent.glob("epoch_*.pth"), key=lambda file: file.stat().st_mtime)
    if saved:
        path.symlink_to(saved[-1].name)
        return
    _save(next(sandbox.rglob(f"{path.parent.name}.py")), path)


def _save(config: Path, path: Path) -> None:
    save_initial(config, path, classes=load_model(config, None, untrained=True).classes)


def _timm(architecture: str) -> Callable[[Path, Path], None]:
    def maker(path: Path, _: Path) -> None:
        import timm

        torch.save(timm.create_model(architecture).state_dict(), path)

    return maker


def _torchvision(path: Path, _: Path) -> None:
    from torchvision.models import resnet50

    torch.save(resnet50().state_dict(), path)


def _mmpretrain(path: Path, _: Path) -> None:
    import mmpretrain.models  # noqa: F401
    from mmengine.hub import get_config

    config = get_config("mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py")
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), path)


def _half_resnet(path: Path, _: Path) -> None:
    weights = official_half_cnn.random_state_dict("resnet", depth=50)
    torch.save({name: value.float() for name, value in weights.items()}, path)


def _minivit(family: str, arch: str) -> Callable[[Path, Path], None]:
    def maker(path: Path, _: Path) -> None:
        weights = published(family, arch)
        floats = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
        torch.save(dict(model=floats), path)

    return maker


def _converted_mini_swin(path: Path, sandbox: Path) -> None:
    from halvit_mm.checkpoints.conversion import convert_file

    official = path.with_name("official_mini_swin_tiny.pth")
    _minivit("swin", "tiny")(official, sandbox)
    convert_file(official, path)


def _detector_config(path: Path, sandbox: Path) -> None:
    write_small(ROOT / "configs/digits/mask_rcnn_halvit_digits.py", path)


def _detector(path: Path, sandbox: Path) -> None:
    _save(ROOT / "configs/digits/mask_rcnn_halvit_digits.py", path)


def _onnx(path: Path, sandbox: Path) -> None:
    folder = sandbox / "exported"
    images = make_folders(folder / "data")
    config = classifier_config(folder / "small.py", images)
    weights = save_initial(config, folder / "weights.pth", classes=CLASSES)
    tool = [sys.executable, ROOT / "tools/export_onnx.py", config, weights, path]
    status, _, errors = run([*tool, "--images", images / CLASSES[0]], sandbox)
    assert status == 0, errors


def _photograph(path: Path, _: Path) -> None:
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image("china.jpg")).resize((320, 214)).save(path)


def _photographs(path: Path, _: Path) -> None:
    from sklearn.datasets import load_sample_images

    path.mkdir()
    for i, image in enumerate(load_sample_images().images):
        Image.fromarray(image).resize((320, 214)).save(path / f"{i}.jpg")


def _more_photographs(path: Path, sandbox: Path) -> None:
    _photographs(path.parent / "all", sandbox)
    shutil.copytree(path.parent / "all", path.parent, dirs_exist_ok=True)


def _clip(path: Path, _: Path) -> None:
    rng = np.random.default_rng(0)
    with video_file(path, 25.0) as writer:
        for _ in range(3):
            writer.write(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8))


def _nuclei_zip(path: Path, _: Path) -> None:
    """Five images with two nuclei each, as the source has them."""
    folder = path.with_suffix("")
    for i in range(5):
        picture = np.full((256, 256, 4), 255, np.uint8)
        masks = np.zeros((2, 256, 256), np.uint8)
        masks[0, 20:60, 20 + 9 * i : 60 + 9 * i] = masks[1, 120:170, 90:130] = 255
        picture[..., :3] = masks.max(0)[..., None]
        for kind, arrays in dict(images=[picture], masks=masks).items():
            (folder / f"image{i}" / kind).mkdir(parents=True)
            for j, array in enumerate(arrays):
                name = f"image{i}" if kind == "images" else f"mask{j}"
                Image.fromarray(array).save(folder / f"image{i}" / kind / f"{name}.png")
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder).as_posix())


def _labelled(path: Path, _: Path) -> None:
    for split in ("train", "val"):
        make_folders(path / split, images=2)


def _run(log: str) -> Callable[[Path, Path], None]:
    def maker(path: Path, _: Path) -> None:
        shutil.copytree(ROOT / "docs/results" / log, path)

    return maker


#: Makers by what the name must match as a whole. The first match counts.
MAKERS: dict[str, Callable[[Path, Path], None]] = {
    r"work_dirs/halvit": _run("cifar10_halvit_cpu_seed0"),
    r"work_dirs/dense": _run("cifar10_dense_vit_cpu_seed0"),
    r"work_dirs/\w+/(epoch|iter)_\d+\.pth": _trained,
    r"(.*/)?config\.py": _detector_config,
    r"(.*/)?epoch_\d+\.pth": _detector,
    r"model\.onnx": _onnx,
    r"street\.jpg": _photograph,
    r"photographs": _photographs,
    r"more/\*\.jpg": _more_photographs,
    r"clip\.mp4": _clip,
    r"stage1_train\.zip": _nuclei_zip,
    r"data/mine": _labelled,
    r"deit_small\.pth": _timm("deit_small_patch16_224"),
    r"resnet50-torchvision\.pth": _torchvision,
    r"swin-tiny-mmpretrain\.pth": _mmpretrain,
    r"resnet50-official\.pth": _half_resnet,
    r"mini_deit_base_patch16_224\.pth": _minivit("deit", "base"),
    r"mini_swin_tiny\.pth": _converted_mini_swin,
}
