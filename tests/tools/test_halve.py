"""tools/halve.py as whole processes: what it writes, refuses, and goes on with after Ctrl-C."""

import runpy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from processes import run, start
from tiny_runs import classifier_config, make_folders
from torch import Tensor

from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError
from halvit_mm.halving.report import Report

UNITS = 3  # blocks of the model
QUICK = ("--steps", "3", "--batch-size", "4")


def build(config: Path, **backbone: object) -> torch.nn.Module:
    """The config's model, its backbone changed."""
    cfg = load_config(config)
    described = cfg.model.to_dict() | dict(data_preprocessor=cfg.data_preprocessor.to_dict())
    described["backbone"] |= backbone
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(described).eval()


def save_dense(config: Path, path: Path) -> dict[str, Tensor]:
    """Writes the checkpoint of a dense twin whose weights are large enough to matter."""
    torch.manual_seed(0)
    model = build(config, tied=False)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    torch.save(dict(state_dict=model.state_dict()), path)
    return model.state_dict()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with half.py, dense.pth and images."""
    folder = tmp_path_factory.mktemp("models")
    config = classifier_config(folder / "half.py", make_folders(folder / "images", images=8))
    text = config.read_text()
    assert "depth=2" in text
    config.write_text(text.replace("depth=2", f"depth={UNITS}"))
    save_dense(config, folder / "dense.pth")
    return folder


def halve_command(root: Path, models: Path, out: Path, *options: str) -> list:
    tool = [sys.executable, root / "tools/halve.py", models / "dense.pth", out]
    return [*tool, "--config", models / "half.py", *options]


def halve(
    root: Path, models: Path, out: Path, *options: str, cwd: Path | None = None
) -> tuple[int, str, str]:
    return run(halve_command(root, models, out, *options), cwd or out.parent)


def weights(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.parametrize("method", ["average", "aligned", "reconstruction"])
def test_weights_report_and_picture(method: str, models: Path, tmp_path: Path, root: Path) -> None:
    out = tmp_path / "new" / "half.pth"
    more = QUICK if method == "reconstruction" else ()
    status, output, errors = halve(
        root, models, out, "--calib", str(models / "images"), "--images", "8",
        "--method", method, *more, cwd=tmp_path,
    )  # fmt: skip
    assert status == 0, errors
    assert sorted(p.name for p in out.parent.iterdir()) == ["half.json", "half.png", "half.pth"]

    model = build(models / "half.py")
    model.load_state_dict(weights(out), strict=True)
    report = Report.load(out.with_suffix(".json"))
    assert len(report.units) == UNITS and report.method == method and report.images == 8
    assert report.parameters_half == sum(p.numel() for p in model.parameters())
    assert 0 <= report.agreement <= 1 and report.divergence >= 0
    for unit in report.units:
        assert unit.error == unit.error_start or method == "reconstruction"
    assert Image.open(out.with_suffix(".png")).width == 1500
    assert f"agreement: the dense model's class on {report.agreement:.1%} of 8" in output
    shown = report.lines()
    assert output.strip().split("\n")[-len(shown) :] == shown
    assert shown[-1].endswith(f"--load-from {out}`")


def test_agreement_is_that_of_the_written_weights(models: Path, tmp_path: Path, root: Path) -> None:
    """Measured anew, by the models' own forward passes."""
    from halvit_mm.halving.calibration import calibration_images

    out = tmp_path / "half.pth"
    status, _, errors = halve(root, models, out, "--images", "12", "--seed", "1", *QUICK)
    assert status == 0, errors  # without --calib these are the images of the training set
    report = Report.load(tmp_path / "half.json")
    images = calibration_images(load_config(models / "half.py"), folder=None, count=12, seed=1)
    half, dense = build(models / "half.py"), build(models / "half.py", tied=False)
    half.load_state_dict(weights(out))
    dense.load_state_dict(weights(models / "dense.pth"))
    with torch.inference_mode():
        ours, theirs = (model.head(model.extract_feat(images)) for model in (half, dense))
    same = (ours.argmax(1) == theirs.argmax(1)).double().mean().item()
    assert report.agreement == pytest.approx(same, abs=1e-6)
    logs = [logits.double().log_softmax(1) for logits in (ours, theirs)]
    divergence = (logs[1].exp() * (logs[1] - logs[0])).sum(1).mean().item()
    assert report.divergence == pytest.approx(divergence, rel=1e-3, abs=1e-6)


def test_ctrl_c_and_the_same_command_again(models: Path, tmp_path: Path, root: Path) -> None:
    """Stopped within the second unit; the end is the same as without a stop, bit for bit."""
    options = ("--images", "16", "--steps", "150", "--batch-size", "8")
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    status, _, errors = halve(root, models, whole, *options)
    assert status == 0, errors

    partial = Path(f"{cut}.partial")
    with start(halve_command(root, models, cut, *options), tmp_path) as process:
        for _ in range(12_000):
            if partial.exists() or process.poll() is not None:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.strip().split("\n")[-2:] == [
        "the same command goes on after the last finished unit",
        "interrupted",
    ]
    assert partial.exists() and not cut.exists()
    finished = torch.load(partial, weights_only=True)["reports"]
    assert 1 <= len(finished) < UNITS
    assert not list(tmp_path.glob("cut.json")) and not list(tmp_path.glob("cut.png"))

    status, _, errors = halve(root, models, cut, *options)
    assert status == 0, errors
    assert not partial.exists()
    one, other = weights(whole), weights(cut)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    units = [Report.load(path.with_suffix(".json")).units for path in (whole, cut)]
    errors = [[(unit.name, unit.error_start, unit.error) for unit in some] for some in units]
    assert errors[0] == errors[1]
    # Had a unit been fitted again, it would have taken another time.
    assert [asdict(unit) for unit in units[1][: len(finished)]] == finished
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*"))


@pytest.fixture
def refusal(
    root: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """The sentence with which a command is refused that must write nothing; in this process."""
    monkeypatch.syspath_prepend(root / "tools")
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(root / "tools/halve.py"))["main"]

    def refuse(*options: str, out: str = "half.pth", **places: Path) -> str:
        command = halve_command(root, models, tmp_path / out, *options)
        command[2] = places.get("source", command[2])
        command[5] = places.get("config", command[5])
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", [str(part) for part in command[1:]])
        with pytest.raises(UserError) as caught:
            main()
        assert "\n" not in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before
        return str(caught.value)

    return refuse


def test_options_that_are_refused(refusal: Callable[..., str], tmp_path: Path) -> None:
    line = refusal("--method", "average", "--batch-size", "8")
    assert line == "--batch-size does not go with --method average: leave it away"
    for out in ("half.json", "half.png"):
        assert f"{out}: the report gets this name; name the weights *.pth" in refusal(out=out)
    assert refusal("--images", "0").startswith("--images 0: at least one image")
    assert refusal("--lr", "0").startswith("--steps, --batch-size, --lr: steps=")
    assert "there is no such config" in refusal(config=tmp_path / "no.py")
    assert "has no modle" in refusal("--cfg-options", "modle.backbone.arch=nano")
    (tmp_path / "half.pth").write_text("mine")
    assert "half.pth: this exists already; remove it or give another name" in refusal()
    assert (tmp_path / "half.pth").read_text() == "mine"


def test_images_that_are_refused(refusal: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    calib = ("--calib", str(folder))
    assert refusal(*calib).startswith(f"--calib {folder}: this does not exist")
    folder.mkdir()
    assert "there is no image" in refusal(*calib)
    (folder / "text.jpg").write_text("no image")
    assert "images in it cannot be read: " in refusal(*calib)
    absent = f"train_dataloader.dataset.data_root={tmp_path}/absent"
    assert refusal("--cfg-options", absent).endswith("; or give images by --calib FOLDER")


def test_checkpoints_that_are_refused(
    refusal: Callable[..., str], models: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source.pth"
    assert "no such checkpoint" in refusal(source=source)
    dense = weights(models / "dense.pth")
    torch.save(dict(state_dict=dense, code=Path("x")), source)
    assert "loading would run code (pathlib" in refusal(source=source)
    torch.save(dict(strange=torch.ones(3)), source)
    assert "source.pth" in refusal(source=source)
    torch.save(dict(state_dict={key: dense[key] * float("nan") for key in dense}), source)
    assert ": values that are not finite; give a checkpoint from before" in refusal(source=source)
    narrow = tmp_path / "narrow.py"
    narrow.write_text((models / "half.py").read_text().replace("dim=32", "dim=16"))
    assert "32" in refusal(config=narrow)


@pytest.mark.parametrize("arguments", [("--calib", "nowhere"), ("--img-size=2x3x4",)])
def test_a_refusal_as_a_process(
    arguments: tuple[str, ...], models: Path, tmp_path: Path, root: Path
) -> None:
    status, output, errors = halve(root, models, tmp_path / "half.pth", *arguments)
    assert status == 2 and "Traceback" not in errors and "half.pth" not in output
    assert {
        "--calib": "error: --calib nowhere: this does not exist; name a folder of images",
        "--img-size=2x3x4": "halve.py: error: argument --img-size: give pixels above 0, as 224 or "
        "480x640, not '2x3x4'",
    }[arguments[0]] == errors.strip().split("\n")[-1]
    assert not list(tmp_path.iterdir())
