"""Every command of every experiment is one that its tool takes, with a config that can be read."""

import argparse
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest

from halvit_mm.engine.config_errors import load_config
from halvit_mm.evidence.experiments import DATA, EXPERIMENTS
from halvit_mm.evidence.rerun import filled

COMMANDS = [
    pytest.param(command[1:], id=f"{name}-{number}")
    for name, one in EXPERIMENTS.items()
    for number, command in enumerate(filled(one, Path("RUNS")))
]


class _Parsed(BaseException):
    """Ends a tool when its arguments have been read; no tool catches it."""


@pytest.fixture(autouse=True)
def in_root(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(root / "tools")  # as when a tool is run


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    if command[0] == "-m":
        assert Path(command[1].replace(".", "/") + ".py").is_file() or command[1] == "pytest"
        assert all(Path(word).is_file() for word in command[2:] if word.endswith(".py"))
        return
    parse = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise _Parsed(parse(self, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(_Parsed) as parsed:
        runpy.run_path(command[0], run_name="__main__")
    args = parsed.value.args[0]
    configs = [word for word in command[1:] if word.startswith("configs/")]
    assert all(Path(config).exists() for config in configs)
    if command[0] == "tools/train.py":
        cfg = load_config(args.config, args.cfg_options)
        for key, value in args.cfg_options.items():
            assert _found(cfg, key) == value, key


def _found(cfg, key):
    for part in key.split("."):
        cfg = cfg[int(part)] if isinstance(cfg, list) else cfg[part]
    return cfg


def test_options_change_what_the_configs_have():
    """An option of a wrong name would be added without effect: it has to be there before."""
    read = cache(load_config)
    news = {"seed", "indices", "checkpoint", "init_std", "signed_ffn", "tied"}
    for one in EXPERIMENTS.values():
        for command in one.commands:
            if command[0] != "tools/train.py":
                continue
            cfg = read(command[1])
            for option in command[command.index("--cfg-options") + 1 :]:
                key = option.partition("=")[0]
                if key.rpartition(".")[2] not in news:
                    _found(cfg, key)


def test_what_experiments_need_is_there():
    for one in EXPERIMENTS.values():
        assert set(one.needs) <= set(EXPERIMENTS)
        assert set(one.data) <= set(DATA)
        for words in one.commands:
            named = {name for name in DATA if any(f"{{data:{name}}}" in word for word in words)}
            assert named <= set(one.data), one.log
