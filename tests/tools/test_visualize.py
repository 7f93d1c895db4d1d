"""tools/visualize.py as people call it: pictures out, and one sentence for what is wrong."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, detector_config, make_coco, make_folders

RESNET = """
_base_ = "config.py"
model = dict(
    backbone=dict(_delete_=True, type="HalfResNet", base_channels=8, out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(in_channels=256),
)
"""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("classifier")
    config = classifier_config(folder / "config.py", make_folders(folder / "data"))
    return [str(config), str(save_initial(config, folder / "weights.pth", classes=CLASSES))]


@pytest.fixture(scope="module")
def resnet(classifier) -> list[str]:
    config = Path(classifier[0]).with_name("resnet.py")
    config.write_text(RESNET)
    weights = config.with_name("resnet.pth")
    return [str(config), str(save_initial(config, weights, classes=CLASSES))]


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("detector")
    config = detector_config(folder / "config.py", make_coco(folder / "data"))
    return [str(config), str(save_initial(config, folder / "weights.pth", classes=CLASSES))]


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (64, 64, 3)), ("sub/b.jpg", (48, 80, 3)), ("grey.png", (40, 40))):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(file)
    return tmp_path / "photos"


@pytest.fixture
def visualize(root, tmp_path, monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """Runs the tool in this process: status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(root / "tools"))

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(root / "tools/visualize.py"), run_name="__main__")
        return caught.value.code, *capfd.readouterr()

    return call


def written(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())


def test_a_classifier_and_files_of_all_kinds(root, tmp_path, classifier, photos):
    """What can be read is drawn; what cannot is listed, and the status says so."""
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("no image")
    command = [sys.executable, root / "tools/visualize.py", *classifier, "photos", "gone.png"]
    status, output, errors = run(command, cwd=tmp_path)
    assert status == 3, errors
    kinds = ("attention", "features", "gradcam")
    names = ("photos/a", "photos/grey", "photos/sub/b")
    assert written(tmp_path / "inside") == [
        f"{name}_{kind}.png" for name in names for kind in kinds
    ]
    for file in (tmp_path / "inside").rglob("*.png"):
        assert min(Image.open(file).size) > 200
    assert "9 pictures: inside" in output
    assert "3 of the inputs could not be used:" in errors
    for name in ("empty.png", "text.jpg", "gone.png"):
        assert name in errors
    assert "Traceback" not in errors


def test_a_detector_with_options(visualize, tmp_path, detector, photos):
    options = [
        "--what",
        "gradcam",
        "attention",
        "--layers",
        1,
        "--heads",
        "all",
        "--query",
        "20,30",
    ]
    options += ["--class", "light", "--layer", 0, "--out", "out"]
    status, output, errors = visualize(*detector, photos / "a.png", *options)
    assert status == 0, errors
    assert written(tmp_path / "out") == ["a_attention.png", "a_gradcam.png"]
    assert "2 pictures: out" in output


def test_a_resnet_is_shown_without_attention(visualize, tmp_path, resnet, photos):
    status, output, errors = visualize(*resnet, photos / "a.png")
    assert status == 0, errors
    assert written(tmp_path / "inside") == ["a_features.png", "a_gradcam.png"]
    assert "HalfResNet has no attention; the rest is drawn" in output


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (
            "resnet",
            ["--what", "attention"],
            "error: HalfResNet has no attention to look at; choose",
        ),
        ("classifier", ["--layers", "7"], "error: --layers 7: this backbone has 2 of them"),
        ("classifier", ["--class", "drak"], "error: --class drak: the model has no such class"),
        ("detector", ["--query", "cls"], "error: --query cls: this backbone has no class token"),
    ],
)
def test_what_the_model_has_not_is_said(visualize, model, options, sentence, photos, request):
    arguments = [*request.getfixturevalue(model), photos / "a.png", *options]
    status, _, errors = visualize(*arguments)
    assert status == 2
    assert sentence in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--query", "1"], "1 is neither cls nor mean nor a place Y,X"),
        (["--query", "1,2,3"], "1,2,3 is neither cls nor mean"),
        (["--heads", "-1"], "--heads"),
        (["--what", "gradients"], "invalid choice: 'gradients'"),
    ],
)
def test_what_cannot_be_meant(visualize, tmp_path, classifier, options, sentence):
    status, _, errors = visualize(*classifier, "a.png", *options)
    assert status == 2
    assert sentence in errors
    assert not (tmp_path / "inside").exists()
