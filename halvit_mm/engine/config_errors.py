"""One clear sentence for what is wrong in a config, instead of a traceback through registries."""

import difflib
import inspect
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from types import TracebackType
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry.build_functions import build_from_cfg
from mmengine.runner import Runner

from ..errors import UserError
from .config_names import config_path

#: What a wrong value in a config makes a constructor raise; anything else is a bug and keeps its
#: traceback.
CONFIG_MISTAKES = (
    AssertionError,
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
)

#: Top-level options beside the runner's own arguments that mmengine and ``launch`` look for.
_READ_FROM_CFG = (
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "runner_type",
    "strategy",
    "sync_bn",
    "tta_model",
    "tta_pipeline",
)

_BUILT_BY_RUNNER = {
    Runner.__init__.__code__: "config",
    Runner.build_optim_wrapper.__code__: "optim_wrapper",
    Runner.build_param_scheduler.__code__: "param_scheduler",
}


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Reads a config file and sets ``options`` in it.

    Args:
        path: The config file, or ``package::path`` for one that an installed package carries.
        options: Values by dotted name, as from ``--cfg-options``.

    Raises:
        UserError: The file or one that it inherits from is missing or wrong, or an option cannot
            be set or belongs to no part of a config.
    """
    try:
        file = config_path(str(path)) if "::" in str(path) else path
    except Exception as error:  # of mmengine's, of any kind, AssertionError included
        raise UserError(
            f"{path}: there is no such config in an installed package; names are like "
            "halvit_mm::mask_rcnn_halvit_1x_coco.py or mmdet::FOLDER/FILE.py"
        ) from error
    if not Path(file).is_file():
        raise UserError(f"{path}: there is no such config; check the path")
    try:
        cfg = Config.fromfile(file)
    except SyntaxError as error:
        raise UserError(f"{path}: syntax error in line {error.lineno}: {error.msg}") from error
    except Exception as error:  # a config is a program and can raise anything
        raise UserError(f"{path}: {_sentence(error)}") from error
    known = {*cfg, *inspect.signature(Runner).parameters, *_READ_FROM_CFG}
    for option, value in (options or {}).items():
        root = option.split(".")[0]
        if root not in known:
            raise UserError(
                f"--cfg-options {option}: {path} has no {root}{_did_you_mean(root, known)}"
            )
        try:
            cfg.merge_from_dict({option: value})
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"--cfg-options {option}: {_sentence(error)}") from error
    return cfg


@contextmanager
def config_errors(cfg: Config) -> Iterator[None]:
    """Tells which component of ``cfg`` is wrong when it cannot be built.

    Only errors raised while something is built, or while a checkpoint is loaded, are touched. What
    goes wrong later, in training itself, keeps its traceback.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if _is_loading(error.__traceback__):
            print_log(traceback.format_exc(), "current", logging.DEBUG)
            raise UserError(
                f"{cfg.get('load_from')}: the state in this checkpoint does not fit "
                f"({_sentence(error)}); start from its weights with --load-from instead of "
                "--resume, or give one of the same config"
            ) from error
        component = _being_built(error.__traceback__)
        if component is None or not isinstance(error, CONFIG_MISTAKES):
            raise
        print_log(traceback.format_exc(), "current", logging.DEBUG)
        raise UserError(f"{_locate(cfg, component)}: {_sentence(error)}") from error


def _is_loading(trace: TracebackType | None) -> bool:
    """Whether an error came up while mmengine loaded a checkpoint or resumed from it."""
    return any(
        frame.f_code is Runner.load_or_resume.__code__ for frame, _ in traceback.walk_tb(trace)
    )


def _being_built(trace: TracebackType | None) -> str | None:
    """Name of the innermost component that was being built on the way to an error."""
    name = None
    while trace:
        code = trace.tb_frame.f_code
        if code is build_from_cfg.__code__:
            cfg = trace.tb_frame.f_locals["cfg"]
            name = _type_name(cfg) if isinstance(cfg, dict) else "?"
        else:
            name = _BUILT_BY_RUNNER.get(code, name)
        trace = trace.tb_next
    return name


def _type_name(component: dict) -> str:
    kind = component.get("type")  # a class, in mmengine's pure Python configs
    return kind.__name__ if inspect.isclass(kind) else str(kind)


def _locate(cfg: Config, component: str) -> str:
    """Where the config names the component: its dotted path, if there is one such place."""
    places = []

    def search(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if _type_name(node) == component:
                places.append(path)
            for key, value in node.items():
                search(value, f"{path}.{key}".lstrip("."))
        elif isinstance(node, list | tuple):
            for index, value in enumerate(node):
                search(value, f"{path}.{index}")

    search(cfg.to_dict(), "")
    return f"{places[0]} ({component})" if len(places) == 1 else component


def _sentence(error: Exception) -> str:
    """An exception's message in one line, without the advice that mmengine adds to a KeyError."""
    # str() of a KeyError is the repr of its message.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "registry. Please check" in text:
        return (
            text.split(" Please check")[0] + " Check its spelling, or import it in custom_imports"
        )
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif not isinstance(error, ValueError | AssertionError):
        text = f"{type(error).__name__}: {text}"
    return shorten(text, 400, placeholder=" …")


def _did_you_mean(word: str, known: set[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; check its spelling"
