"""The wheel carries configs and tools, and works without the repository."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from tiny_runs import classifier_config, make_folders

import halvit_mm

pytestmark = pytest.mark.xdist_group("wheel")
ROOT = Path(__file__).resolve().parents[2]
NOT_CARRIED = {
    f"tools/{name}.py" for name in ("install", "make_model_zoo", "make_results", "check_matrix")
}
#: What the wheel is made of; the rest of the source distribution are tests and documentation.
SOURCES = (
    *("halvit_mm", "configs", "tools", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md"),
    *("LICENSE", "CITATION.cff", "CHANGELOG.md", "model-index.yml"),
)


def files(*folders: str) -> set[str]:
    """All files of the repository's folders that somebody wrote."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", ".mim"} & set(path.parts)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with a source distribution, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:  # links are followed, so that the clone stays as it is
        subprocess.run(["cp", "-rL", ROOT / name, source], check=True)
    subprocess.run(["rm", "-rf", source / "halvit_mm/.mim"], check=True)
    (source / "halvit_mm/.mim/configs").mkdir(parents=True)  # as an editable installation leaves
    (source / "halvit_mm/.mim/configs/stale.py").touch()
    _run("-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def site(built, tmp_path_factory) -> Path:
    """The wheel, installed into a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    (path,) = built.glob("*.whl")
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    _run(*pip, "--target", site, path, cwd=site)
    return site


@pytest.fixture
def at_home(tmp_path, site, monkeypatch):
    """Runs Python in a user's folder, where only the installed wheel is found."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    return lambda *command: _run(*command, cwd=tmp_path)


def _run(*command, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_configs_and_tools(wheel):
    inside = {name for name in wheel.namelist() if not name.startswith("halvit_mm-")}
    carried = (files("configs", "tools") | {"model-index.yml"}) - NOT_CARRIED
    assert inside == files("halvit_mm") | {f"halvit_mm/.mim/{name}" for name in carried}
    for name in carried:
        assert wheel.read(f"halvit_mm/.mim/{name}") == (ROOT / name).read_bytes()


def test_metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = message_from_bytes(wheel.read(name))
    assert (metadata["Name"], metadata["Version"]) == ("halvit_mm", halvit_mm.__version__)
    assert metadata["License-Expression"] or metadata["License"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True).decode().strip() == _text("README.md").strip()
    assert "Project-URL" not in metadata  # there are no such pages
    (licence,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
    assert wheel.read(licence).decode() == _text("LICENSE")


def test_the_source_distribution_holds_what_the_wheel_is_made_of(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert files("halvit_mm", "configs", "tools") <= inside
    assert {"CITATION.cff", "CHANGELOG.md", "LICENSE", "model-index.yml"} <= inside


def test_an_editable_installation_links_to_the_clone(built):
    """Beside the stale copies of ``built``, which go away; both pip and uv call this hook."""
    hook = "from setuptools import build_meta; build_meta.build_editable('../editable')"
    (built / "editable").mkdir()
    _run("-c", hook, cwd=built / "source")
    mim = built / "source/halvit_mm/.mim"
    assert {link.name: link.resolve() for link in mim.iterdir()} == {
        name: built / "source" / name for name in ("configs", "tools", "model-index.yml")
    }
    (wheel,) = (built / "editable").glob("*.whl")
    assert not any(".mim" in name for name in zipfile.ZipFile(wheel).namelist())


def test_configs_by_the_package_s_name(at_home, site, tmp_path):
    """Inherited by a user's config, by mmengine's hub and as an argument; each builds."""
    (tmp_path / "mine.py").write_text(
        '_base_ = ["halvit_mm::mask_rcnn_halvit_1x_coco.py"]\n'
        "model = dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))"
    )
    (tmp_path / "try.py").write_text(
        "import json, logging\n"
        "import halvit_mm\n"
        "from mmengine.config import Config\n"
        "from mmengine.hub import get_config\n"
        "from halvit_mm.analysis.weightless import build_without_weights as build\n"
        "from halvit_mm.engine.config_errors import load_config\n"
        "logging.disable(logging.INFO)\n"
        "configs = {'mine': Config.fromfile('mine.py')}\n"
        "for name in ('mask_rcnn_mini_swin_1x_coco.py', 'nuclei/mask_rcnn_halvit_nuclei.py',\n"
        "             'imagenet/half_resnet50_recovery_imagenet.py'):\n"
        "    configs[name] = get_config(f'halvit_mm::{name}')\n"
        "name = 'halvit_mm::digits/mask_rcnn_halvit_digits.py'\n"
        "configs[name] = load_config(name)\n"
        "mmdet = get_config('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py')\n"
        "print(json.dumps(dict(\n"
        "    package=halvit_mm.__file__, other=mmdet.model.backbone.type,\n"
        "    files=[cfg.filename for cfg in list(configs.values())[1:]],\n"
        "    teacher=list(configs.values())[3].model.teacher.config,\n"
        "    parameters=[sum(p.numel() for p in build(c).parameters()) for c in configs.values()]\n"
        ")))\n"
    )
    said = json.loads(at_home("try.py").splitlines()[-1])
    assert said["package"] == str(site / "halvit_mm/__init__.py")
    assert said["other"] == "SwinTransformer"
    assert all(path.startswith(str(site / "halvit_mm/.mim/configs")) for path in said["files"])
    assert Path(said["teacher"]).is_file() and site in Path(said["teacher"]).parents
    # Of Mask R-CNN with 80 classes, less 77 of them in the box and the mask head.
    assert said["parameters"][0] == 31_890_128 - 77 * (1025 + 4 * 1025 + 257)
    assert said["parameters"][1] == 31_508_013


@pytest.mark.full
def test_every_config_by_the_package_s_name(at_home, tmp_path):
    (tmp_path / "try.py").write_text(
        "from halvit_mm.analysis.weightless import build_without_weights\n"
        "from halvit_mm.carried import carried\n"
        "from halvit_mm.engine.config_errors import load_config\n"
        "configs = carried('configs')\n"
        "for path in configs.rglob('*.py'):\n"
        "    if '_base_' not in path.parts:\n"
        "        name = f'halvit_mm::{path.relative_to(configs).as_posix()}'\n"
        "        build_without_weights(load_config(name))\n"
        "        print('built', name)\n"
    )
    built = [line for line in at_home("try.py").splitlines() if line.startswith("built ")]
    configs = [name for name in files("configs") if name.endswith(".py")]
    assert len(built) == sum("/_base_/" not in name for name in configs)


@pytest.fixture
def tiny(tmp_path) -> list[str]:
    """A config in the user's folder, and what makes its training short."""
    classifier_config(tmp_path / "config.py", make_folders(tmp_path / "data"))
    return ["config.py", "--cfg-options", "train_cfg.max_epochs=1"]


def test_a_training_by_our_command(at_home, tmp_path, tiny):
    at_home("-m", "halvit_mm", "train", *tiny, "--work-dir", "work")
    assert (tmp_path / "work/epoch_1.pth").is_file()


@pytest.mark.full
def test_a_training_and_a_test_as_mim_runs_them(at_home, site, tmp_path, tiny):
    """By the tools' paths, with mim's option behind the config."""
    tools = site / "halvit_mm/.mim/tools"
    at_home(tools / "train.py", tiny[0], "--launcher", "none", "--work-dir", "work", *tiny[1:])
    command = (tools / "test.py", tiny[0], "work/epoch_1.pth", "--launcher", "none")
    at_home(*command, "--json", "metrics.json")
    assert 0 <= json.loads((tmp_path / "metrics.json").read_text())["accuracy/top1"] <= 100


def test_citation():
    citation = yaml.safe_load(_text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["title"].startswith("halvit_mm")
    assert (citation["version"], citation["license"]) == (halvit_mm.__version__, "Apache-2.0")
    papers = {paper["title"].split(":")[0]: paper for paper in citation["references"]}
    pages = {name: (paper["start"], paper["end"]) for name, paper in papers.items()}
    assert pages == {"HaLViT": (3669, 3678), "MiniViT": (12145, 12154)}
    for paper in papers.values():
        assert paper["url"] in _text("README.md")


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
