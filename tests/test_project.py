"""What holds for the repository as a whole."""

import subprocess
import sys

import halvit_mm


def test_layers_need_no_openmmlab(root):
    """`halvit_mm.layers` is plain PyTorch: it imports where mmengine is not installed."""
    code = (
        "import sys\n"
        "for name in ('mmengine', 'mmcv', 'mmdet', 'mmpretrain'): sys.modules[name] = None\n"
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name == 'mmengine' else find(name, *a)\n"
        "from halvit_mm.layers import TiedFFN\n"
        "print(TiedFFN(4, 8))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("TiedFFN(")


def test_import_is_light(root):
    """Registering costs no more than mmengine does: what few need, or only runs, comes later."""
    code = (
        "import sys, halvit_mm\n"
        "late = {'mmcv', 'mmdet', 'mmpretrain', 'timm', 'matplotlib', 'pycocotools', 'scipy'}\n"
        "late |= {'gradio', 'onnx', 'onnxruntime', 'onnxscript', 'pytorch_grad_cam'}\n"
        "late |= {f'halvit_mm.{r}' for r in ('benchmark', 'distillation', 'visualization')}\n"
        "late |= {f'halvit_mm.{r}' for r in ('serving', 'inference', 'deploy', 'halving')}\n"
        "print(*sorted(late & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (run.returncode, run.stdout.split()) == (0, []), run.stdout + run.stderr


def test_everything_is_pinned(root):
    lines = (root / "requirements" / "lock.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert len(packages) > 50
    assert all("==" in line for line in packages)
    names = {line.split("==")[0] for line in packages}
    assert not names & {"torch", "torchvision", "opencv-python"}
    assert {"onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmpretrain"} <= names


def test_readme_shows_the_two_commands(root):
    readme = (root / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def test_readme_commands_exist(root):
    """Every tool and config that README and docs name is in the repository."""
    import re

    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for path in re.findall(
            r"(?<![\w/])((?:tools|configs)/[\w/]+\.(?:py|sh))", page.read_text()
        ):
            assert (root / path).is_file(), f"{page.name} names {path}"


def test_version_is_in_the_changelog(root):
    assert f"## {halvit_mm.__version__}" in (root / "CHANGELOG.md").read_text()


def test_rules_for_data_are_in_the_docs(root):
    from halvit_mm.datasets.coco_rules import RULES

    page = (root / "docs" / "reliability.md").read_text()
    for kind, rule in RULES.items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {kind}: "))
        assert rule.fault in line and rule.treatment in line
        assert ("refused" in line.split("|")[2]) is (rule.refused != "never")


def test_tests_that_docs_name_exist(root):
    import re

    for name in re.findall(r"`((?:tests/)[\w/]+\.py)", (root / "docs/reliability.md").read_text()):
        assert (root / name).is_file(), name


def test_tests_of_a_group_share_a_process(root, tmp_path):
    """What takes long to make is made once: some releases of pytest keep xdist from doing so."""
    (tmp_path / "test_group.py").write_text(
        "import os, pytest\n"
        "pytestmark = pytest.mark.xdist_group('group')\n"
        "@pytest.mark.parametrize('i', range(4))\n"
        "def test(i, worker_id):\n"
        "    open(os.path.join(os.path.dirname(__file__), f'{worker_id}.txt'), 'w')\n"
    )
    options = ["-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup", tmp_path]
    run = subprocess.run([sys.executable, "-m", "pytest", *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert len(list(tmp_path.glob("gw*.txt"))) == 1
