"""Every code block of the pages is executed, in the page's order, as a reader would.

Each page has a folder of its own with the repository's tools and configs, small data sets under
``data``, and small files for the names that pages use (``stand_ins.py``). Python blocks run there
in one namespace; those that are configs are built and tried. Commands are parsed by the tools' own
parsers, their configs are loaded, and then they run: in every test run the quick ones, with
``--full`` all of them. What cannot run as printed is in the tables below, with the reason.
``--record FOLDER`` writes how long each command took.
"""

import argparse
import ast
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import processes
import pytest
import torch
import yaml
from code_blocks import Block, Command, blocks, commands, pages
from mmengine.config import Config, utils
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, DefaultScope
from processes import free_port, run, start
from small_configs import write_small
from stand_ins import MAKERS, make, make_data

from halvit_mm.analysis.weightless import build_without_weights
from halvit_mm.engine.config_errors import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = pages(ROOT)
BLOCKS = [block for page in PAGES for block in blocks(page, ROOT)]

SHELL = ("bash", "sh", "console")
#: Languages of blocks that show something and are no code.
SHOWN = ("", "text", "mermaid", "diff", "bibtex")

#: What pages write for a file of the reader's.
PLACEHOLDERS = {
    "CONFIG": "config.py",
    "CKPT": "epoch_12.pth",
    "CHECKPOINT": "epoch_12.pth",
}
#: Commands that do not run here, and why. If they start a tool, its parser still reads them.
NOT_RUN = {
    r"make( [\w-]+)+": "makes an environment, takes minutes; here its targets must exist",
    r"pip (un)?install .*": "changes the environment; here its extras must exist",
    r"git clone .*": "needs the network",
    r"\.venv/bin/pre-commit install": "changes the clone",
    r"\.venv/bin/python -m pytest .*": "these are the tests; here what it names must exist",
    r"bash tools/slurm_train\.sh .*": "needs Slurm; tests/tools/test_slurm.py has a stand-in of it",
}
#: Tools that change the repository or an environment, and the options with which they do not.
ONLY_WITH = {
    "make_results.py": {"--check", "--list", "--dry-run"},
    "check_matrix.py": {"--table", "--help"},
    "make_model_zoo.py": set(),
    "install.py": set(),
}
#: Tools that take longer than a second or two, or read what these write: run with ``--full``.
SLOW = (
    *("train.py", "test.py", "dist_train.sh", "dist_test.sh"),
    *("draw_predictions.py", "analyze_run.py", "measure_training.py"),
    *("convert_checkpoint.py", "publish_model.py", "halve.py"),
    *("export_onnx.py", "export_program.py", "serve.py", "visualize.py"),
)
#: What makes a tool quick, added to its command. The last of an option counts.
QUICKER = {
    "halve.py": ["--images", "4", "--steps", "2"],
    "make_blood_cells.py": ["--num-train", "4", "--num-val", "2"],
    "make_digits.py": ["--num-train", "4", "--num-val", "2"],
    "measure_training.py": ["--rounds", "1", "--steps", "1"],
}
#: What several machines and GPUs are here.
ENVIRONMENT = dict(NNODES="1", NODE_RANK="0", MASTER_ADDR="127.0.0.1", GPUS="2", GPUS_PER_NODE="2")
PROCESSES = "2"
#: Where tools write to, by the names of their arguments.
OUTPUTS = {"destination", "json", "out", "output", "root", "show_dir", "target", "work_dir"}
#: How configs are named outside of the repository.
BY_PACKAGE = "halvit_mm::"
#: What parts of configs are tried with: those of detectors, and those without a model.
DETECTOR = ROOT / "configs/retinanet_half_resnet50_1x_coco.py"
CLASSIFIER = ROOT / "configs/cifar10/small_halvit_cifar10.py"


@dataclass
class Page:
    """Where the blocks of a page run, and what they have left there."""

    folder: Path
    namespace: dict[str, Any] = field(default_factory=lambda: dict(__name__="__main__"))
    seconds: dict[str, float] = field(default_factory=dict)
    cwd: Path = None

    def path(self, name: str) -> Path:
        return Path(os.path.normpath((self.cwd or self.folder) / name))

    def supply(self, names: Sequence[str]) -> None:
        """Makes those of the files that are not there and that stand-ins exist for."""
        for name in names:
            path = self.path(name)
            if path.is_relative_to(self.folder) and not path.exists():
                make(path, self.folder)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("page_data"))


@pytest.fixture(scope="session")
def page_of(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Block], Page]:
    @cache
    def page(name: str) -> Page:
        folder = tmp_path_factory.mktemp(name.replace("/", "_"))
        (folder / "tools").symlink_to(ROOT / "tools")
        (folder / "docs").symlink_to(ROOT / "docs")
        (folder / ".venv").symlink_to(sys.prefix)
        shutil.copytree(ROOT / "configs", folder / "configs", copy_function=os.symlink)
        shutil.copytree(ROOT / "examples", folder / "examples")
        (folder / "data").mkdir()
        for made in data.iterdir():
            (folder / "data" / made.name).symlink_to(made)
        return Page(folder)

    return lambda block: page(block.page)


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No data sets of the user's, no GPU, no state that runs leave behind."""
    import mmpretrain.datasets
    import mmpretrain.evaluation
    import mmpretrain.models  # noqa: F401

    for name in [name for name in os.environ if re.fullmatch(r"HALVIT_\w+_ROOT", name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(utils, "load", cache(utils.load))  # mmengine's indices of configs
    scopes = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted({block.page for block in BLOCKS}))
def test_page(
    name: str,
    page_of: Callable[[Block], Page],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    record_outcome: Callable[[str, str, dict], None],
) -> None:
    """All blocks of a page, as later ones build on earlier ones."""
    for block in BLOCKS:
        if block.page == name:
            print(block)  # which one failed
            page = page_of(block)
            execute(block, page, monkeypatch, full=request.config.getoption("--full"))
    record_outcome("commands", name, dict(seconds=page.seconds))


def execute(block: Block, page: Page, monkeypatch: pytest.MonkeyPatch, *, full: bool) -> None:
    if block.language == "python":
        monkeypatch.chdir(page.folder)
        execute_python(block, page)
    elif block.language in SHELL:
        page.cwd = None
        for command in commands(block):
            monkeypatch.chdir(page.path("."))
            execute_command(block, command, page, full=full)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    else:
        assert block.language in SHOWN, f"{block}: how is {block.language!r} executed?"
        first = (block.text.split() or [""])[0]
        assert first not in ("python", "bash", "pip", "make", "$", "mim"), f"{block}: tag it `bash`"


# --- Python -----------------------------------------------------------------------------------


def execute_python(block: Block, page: Page) -> None:
    """Runs a block in the page's namespace, with its own lines in tracebacks."""
    source = "\n" * (block.line - 1) + block.text
    tree = ast.parse(source, block.page)
    page.supply([n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and is_name(n)])
    if all(isinstance(statement, ast.Assign) for statement in tree.body):
        try_config(block, page)
        return
    if block.file:
        page.path(block.file).parent.mkdir(parents=True, exist_ok=True)
        page.path(block.file).write_text(block.text + "\n")
    exec(compile(tree, block.page, "exec"), page.namespace)


def is_name(constant: ast.Constant) -> bool:
    return isinstance(constant.value, str) and 0 < len(constant.value) < 200


def try_config(block: Block, page: Page) -> None:
    """Builds what a config or a part of one describes, and sends an image's shape through it."""
    path = page.path(block.file or f"part_{block.line}.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text + "\n")
    supply_configs(block.text, page)
    cfg = load_config(path)
    given = set(cfg)
    if "type" not in cfg.get("model", {}) or "default_scope" not in cfg:
        cfg = completed(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        for name in given & {"train_dataloader", "val_dataloader", "test_dataloader"}:
            assert len(DATASETS.build(cfg[name].dataset)) > 0
        if "dataset" in given:
            assert len(DATASETS.build(cfg.dataset)) > 0
        model = build_without_weights(cfg)
        features = model.extract_feat(torch.zeros(1, 3, 64, 64, device="meta"))
        assert len(features) > 0 and all(len(feature) == 1 for feature in features)
        build_optim_wrapper(model, cfg.optim_wrapper)
    if block.file:
        write_small(path, path)


def completed(part: Config) -> Config:
    """A whole config with what ``part`` has in its place; backbones and necks replace others."""
    cfg = Config.fromfile(DETECTOR if "model" in part else CLASSIFIER)
    for name, value in part.items():
        if name == "model":
            for component, described in value.items():
                cfg.model[component] = described
        elif isinstance(value, dict) and name in cfg:
            cfg.merge_from_dict({name: value.to_dict()})
        else:
            cfg[name] = value
    return cfg


# --- commands ---------------------------------------------------------------------------------


def execute_command(block: Block, command: Command, page: Page, *, full: bool) -> None:
    where = f"{block.page}:{command.line}: {command.text}"
    words = [with_placeholders(word) for word in command.words]
    if not words:
        pytest.fail(f"{where}: is this a command?")
    if words[0] == "cd":
        page.cwd = page.path(words[1])
        assert page.cwd.is_dir(), f"{where}: there is no such folder"
        return
    supply_configs(command.text, page)
    tool = find_tool(words)
    read = None
    if tool:
        page.supply([word for word in words if word.endswith(".py")])
        read = parsed(tool, tool_arguments(words), where)
        check_configs(read, where)
    if any(re.fullmatch(pattern, shlex.join(words)) for pattern in NOT_RUN):
        check_unrun(words, where)
        return
    if tool is None or command.piped:
        pytest.fail(f"{where}: it is neither executed nor in NOT_RUN")
    if not ONLY_WITH.get(tool.name, {*words}) & {*words}:
        return
    if not full and {tool.name, Path(words[1]).name} & set(SLOW):
        return
    if read is not None:
        supply_inputs(read, page)
    began = time.monotonic()
    status, output, errors = started(command, words, page)
    page.seconds[command.text] = round(time.monotonic() - began, 1)
    assert status == 0, f"{where}\nexit status {status}\n{output[-2000:]}\n{errors[-3000:]}"


def with_placeholders(word: str) -> str:
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{PLACEHOLDERS.get(value, value)}"


def supply_configs(text: str, page: Page) -> None:
    """Puts small configs in the place of those that a text names."""
    text = text.replace(BY_PACKAGE, "configs/")
    for name in re.findall(r"\b(?:configs|examples)/[\w/.-]+\.py", text):
        path, original = page.folder / name, ROOT / name
        if original.is_file() and "_base_" in original.read_text() and unchanged(path, original):
            write_small(original, path)


def unchanged(path: Path, original: Path) -> bool:
    return path.is_file() and path.read_bytes() == original.read_bytes()


def find_tool(words: Sequence[str]) -> Path | None:
    """The Python program that a command starts, directly, by its package, or by a script."""
    if Path(words[0]).name not in ("python", "python3", "bash") or len(words) < 2:
        return None
    if words[1] == "-m" and words[2] == "halvit_mm":
        script = ROOT / "tools" / f"{words[3].replace('-', '_')}.py"
    elif words[1].endswith(".sh"):
        script = Path(words[1])
        assert script.is_file(), f"there is no {script}"
        script = script.with_name(script.name.rpartition("_")[2]).with_suffix(".py")
    elif words[1].endswith(".py"):
        script = Path(words[1])
    else:
        return None
    assert script.is_file(), f"there is no {script}"
    return script


def tool_arguments(words: Sequence[str]) -> list[str]:
    """What a program is given, directly or by a script that starts processes."""
    if words[1] == "-m":
        return list(words[4:])
    script, rest = Path(words[1]).name, list(words[2:])
    if script.startswith("slurm_"):
        return [*rest[2:], "--launcher", "slurm"]
    if script.startswith("dist_"):
        number = place_of_processes(script)
        assert rest[number].isdigit(), f"{script}: the number of processes is missing"
        return [*rest[:number], *rest[number + 1 :], "--launcher", "pytorch"]
    return rest


def place_of_processes(script: str) -> int:
    """Which argument of a script is the number of processes."""
    return 2 if script == "dist_test.sh" else 1


def parsed(tool: Path, arguments: list[str], where: str) -> argparse.Namespace | None:
    """What the tool's own parser makes of its arguments; None if it has no parser."""
    if "argparse" not in tool.read_text():
        return None

    class Parsed(BaseException):
        pass

    def stop(parser: argparse.ArgumentParser, args=None, namespace=None) -> None:
        raise Parsed(vars(parse_args(parser, args, namespace)))

    def refuse(parser: argparse.ArgumentParser, message: str) -> None:
        pytest.fail(f"{where}: {message}")

    parse_args = argparse.ArgumentParser.parse_args
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(argparse.ArgumentParser, "error", refuse)
        patch.setattr(sys, "argv", [str(tool), *arguments])
        patch.syspath_prepend(str(tool.parent))
        try:
            runpy.run_path(str(tool), run_name="__main__")
        except Parsed as found:
            return argparse.Namespace(**found.args[0])
        except SystemExit as end:  # --help
            assert not end.code, where
            return None
    pytest.fail(f"{where}: the tool did not read its arguments")


def check_configs(read: argparse.Namespace | None, where: str) -> None:
    """The configs that a command names can be loaded, and its options set."""
    for name in strings({**vars(read), "cfg_options": None}) if read else ():
        if name.endswith(".py"):
            try:
                load_config(name, getattr(read, "cfg_options", None))
            except Exception as error:
                pytest.fail(f"{where}: {error}")


def strings(value: Any) -> Iterator[str]:
    """All texts in nested values."""
    if isinstance(value, (str, Path)):
        yield str(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)


def check_unrun(words: Sequence[str], where: str) -> None:
    """What can be said of a command without running it."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"{where}: the Makefile has no such target"
    if "pytest" in words:
        paths = [word.partition("::")[0] for word in words if word.startswith("tests")]
        assert paths and all((ROOT / path).exists() for path in paths), f"{where}: no such tests"
    if words[0] == "pip":
        extras = re.findall(r"[\[,] *(\w+)(?=[\],])", " ".join(words))
        setup = (ROOT / "setup.py").read_text()
        known = re.findall(r'^        "(\w+)": \[', setup, re.MULTILINE)
        assert set(extras) <= set(known), f"{where}: setup.py has no such extra"


def supply_inputs(read: argparse.Namespace, page: Page) -> None:
    """Makes the files that a command reads, and makes room where it writes."""
    arguments = vars(read)
    page.supply(list(strings({k: v for k, v in arguments.items() if k not in OUTPUTS})))
    for name in strings({k: v for k, v in arguments.items() if k in OUTPUTS}):
        if page.path(name).is_symlink() and page.path(name).parent == page.folder / "data":
            page.path(name).unlink()


def started(command: Command, words: list[str], page: Page) -> tuple[int, str, str]:
    """Runs a command to its end: status, standard output, standard error."""
    cwd = page.path(".")
    env = {name: ENVIRONMENT.get(name, value) for name, value in command.env.items()}
    words = [*on_this_cpu(words, page), *QUICKER.get(find_tool(words).name, ())]
    if words[0] == "bash":
        words[2 + place_of_processes(Path(words[1]).name)] = PROCESSES
        env["PORT"] = free_port()
    else:
        words[0] = sys.executable
    if find_tool(words).name == "serve.py":
        return served(words, cwd)
    return run(words, cwd, **env)


def on_this_cpu(words: Sequence[str], page: Page) -> Iterator[str]:
    """Small configs for those of the package, and bfloat16 for float16, which needs a GPU.

    It is also the default of ``--amp``.
    """
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith(BY_PACKAGE):
            word = str(page.folder / "configs" / word.removeprefix(BY_PACKAGE))
        yield "bfloat16" if word == "float16" else word
        if word == "--amp" and following.startswith("--"):
            yield "bfloat16"


def served(command: list[str], cwd: Path) -> tuple[int, str, str]:
    """Starts the page, looks at it, and ends it as a user does, by Ctrl-C."""
    with start([*command, "--port", free_port()], cwd) as process:
        try:
            for line in process.stdout:
                address = re.search(r"http://\S+", line)
                if address:
                    assert urlopen(address[0], timeout=60).status == 200
                    process.send_signal(signal.SIGINT)
                    break
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    ended = process.returncode in (0, 130)
    return 0 if address and ended else process.returncode or 1, output, errors


# --- the tables, and whether a fault would be found ----------------------------------------------


def all_commands() -> list[tuple[Block, Command]]:
    return [(b, c) for b in BLOCKS if b.language in SHELL for c in commands(b)]


def test_tables_hold_what_pages_use_and_nothing_else() -> None:
    found = all_commands()
    texts = [shlex.join(map(with_placeholders, command.words)) for _, command in found]
    words = {word for _, command in found for word in command.words}
    names = {word.rpartition("=")[2] for word in words}
    everything = "\n".join(block.text for block in BLOCKS)
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, text) for text in texts), pattern
    assert set(PLACEHOLDERS) <= names
    scripts = {Path(word).name for word in words}
    assert not {*SLOW, *QUICKER} - scripts
    for pattern in MAKERS:
        known = [*PLACEHOLDERS.values(), *re.findall(r"[\w*./-]+", everything)]
        assert any(re.fullmatch(pattern, name) for name in known), pattern


def block_of(text: str, language: str = "bash") -> Block:
    return Block("page.md", 1, language, text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("python tools/count_params.py CONFIG --no-such-flag", "unrecognized arguments"),
        ("python tools/count_params.py configs/no_such_config.py", "there is no such config"),
        ("python tools/no_such_tool.py CONFIG", "there is no tools/no_such_tool.py"),
        ("python tools/train.py CONFIG --cfg-options modle.backbone.depth=2", "has no modle"),
        ("bash tools/dist_train.sh CONFIG --amp", "number of processes is missing"),
        ("make no-such-target", "no such target"),
        ('pip install ".[no_such_extra]"', "no such extra"),
        ("cd nowhere", "no such folder"),
        ("rm x.py", "neither executed nor in NOT_RUN"),
        ("python tools/count_params.py CONFIG | tail", "neither executed nor in NOT_RUN"),
        ("python tools/publish_model.py no_such.pth out.pth", "no_such.pth"),
    ],
)
def test_a_wrong_command_is_found(text, fault, page_of, monkeypatch) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception), match=fault):
        execute(block_of(text), page_of(block_of("")), monkeypatch, full=True)


@pytest.mark.parametrize(
    "text",
    [
        "pip uninstall --yes halvit_mm",
        "python tools/make_results.py",
        "python tools/check_matrix.py --env .venv/bin/python",
        "bash tools/slurm_train.sh PARTITION name CONFIG",
    ],
)
def test_what_changes_more_than_the_page_never_runs(text, page_of, monkeypatch) -> None:
    monkeypatch.setattr(processes.subprocess, "Popen", lambda *_, **__: pytest.fail("it runs"))
    monkeypatch.setattr(processes, "_run_forked", lambda *_: pytest.fail("it runs"))
    execute(block_of(text), page_of(block_of("")), monkeypatch, full=True)
    with pytest.raises(pytest.fail.Exception, match="it runs"):
        counted = block_of("python tools/count_params.py CONFIG")
        execute(counted, page_of(block_of("")), monkeypatch, full=True)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import no_such_module", "no_such_module"),
        ("model = dict(backbone=dict(type='HaLViT', no_such_option=1))", "no_such_option"),
        (
            "model = dict(neck=dict(type='FPN', in_channels=[9] * 4, out_channels=8, num_outs=4))",
            "channel",
        ),
        ("_base_ = 'configs/no_such_config.py'", "no_such_config"),
        ("dataset = dict(type='LabelledImages', data_root='nowhere', split='train')", "nowhere"),
    ],
)
def test_a_wrong_python_block_is_found(text, fault, page_of, monkeypatch) -> None:
    with pytest.raises(Exception, match=fault):
        execute(block_of(text, "python"), page_of(block_of("")), monkeypatch, full=True)


@pytest.mark.parametrize(
    ("language", "text"), [("perl", "1"), ("text", "python a.py"), ("json", "{")]
)
def test_no_block_goes_by_unexecuted(language, text, page_of, monkeypatch) -> None:
    with pytest.raises((AssertionError, ValueError)):
        execute(block_of(text, language), page_of(block_of("")), monkeypatch, full=True)


def test_blocks_are_read_as_readers_see_them(tmp_path) -> None:
    page = tmp_path / "page.md"
    inner = "    ```python\n    # mine.py: a file\n    x = 1\n    ```\n"
    page.write_text(f"text\n\n1. list\n\n{inner}~~~sh\nls\n~~~\n")
    first, second = blocks(page, tmp_path)
    assert (first.line, first.text, first.file) == (6, "# mine.py: a file\nx = 1", "mine.py")
    assert (second.line, second.language, second.text) == (10, "sh", "ls")
    page.write_text("```python\n")
    with pytest.raises(ValueError, match="no end"):
        blocks(page, tmp_path)


def test_commands_are_read_as_the_shell_does() -> None:
    text = "A=1 python x.py 'a b' \\\n  --c  # why\nmake one &&\nmake two; ls | wc"
    found = commands(block_of(text))
    assert [command.line for command in found] == [1, 3]
    assert found[0].words == ("python", "x.py", "a b", "--c") and found[0].env == {"A": "1"}
    assert found[1].piped and found[1].text.endswith("ls | wc")
    assert [c.words for c in commands(block_of("make one && make two"))] == [
        ("make", "one"),
        ("make", "two"),
    ]
    (shown,) = commands(block_of("$ ls\nx.py\n", "console"))
    assert shown.words == ("ls",)
