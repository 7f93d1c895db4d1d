"""``python -m halvit_mm`` and configs by name, in a clone."""

import sys

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from halvit_mm import __main__ as commands
from halvit_mm.carried import carried
from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError


def call(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["halvit_mm", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    commands.main()


def test_all_tools_are_commands(monkeypatch, capsys, root):
    call(monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert set(listed) == {path.stem for path in (root / "tools").glob("[!_]*.py")}
    assert listed["train"].endswith("Trains a detector of mmdet or a classifier of mmpretrain from "
                                    "its config.")  # fmt: skip


def test_a_command_runs_its_tool(monkeypatch, capsys):
    with pytest.raises(SystemExit) as done:
        call(monkeypatch, "publish-model", "--help")
    assert done.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: publish_model.py") and "--fp16" in said


@pytest.mark.parametrize(
    ("name", "hint"), [("trian", "did you mean train?"), ("xyz", "--help lists them")]
)
def test_a_misspelt_command_is_one_sentence(monkeypatch, capsys, name, hint):
    monkeypatch.setattr(sys, "argv", ["halvit_mm", name])
    with pytest.raises(SystemExit) as done:
        commands.run(commands.main)
    assert done.value.code == 2
    assert capsys.readouterr().err == f"error: {name}: there is no such command; {hint}\n"


def test_configs_are_named_by_package(root, tmp_path):
    cfg = load_config("halvit_mm::imagenet/halvit_tiny_imagenet.py")
    assert cfg.filename == str(root / "configs/imagenet/halvit_tiny_imagenet.py")
    (tmp_path / "mine.py").write_text('_base_ = "halvit_mm::mask_rcnn_halvit_1x_coco.py"\n')
    mine = Config.fromfile(tmp_path / "mine.py")
    assert mine.model == load_config(root / "configs/mask_rcnn_halvit_1x_coco.py").model
    assert mine.default_scope == "mmdet"


@pytest.mark.parametrize(
    "name", ["nobody::a/b.py", "halvit_mm::a.py", "mmdet::a/b.py", "mmdet::b.py", "::a.py"]
)
def test_names_of_nothing_are_one_sentence(name):
    with pytest.raises(UserError, match=f"^{name}: there is no such config"):
        load_config(name)


def test_other_packages_names_are_as_before():
    other = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    assert load_config(other).model == get_config(other).model
    with pytest.raises(ValueError, match="specify the package name"):
        get_config("mmdet::retinanet_r50_fpn_1x_coco.py")


def test_what_is_carried_is_the_clone_s(root):
    assert carried("configs") == root / "configs"
    assert carried("tools") == root / "tools"
