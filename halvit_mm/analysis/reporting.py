"""Counts several configs, one by one, and reports them."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from os import replace
from pathlib import Path
from typing import Any

from ..engine.config_errors import load_config
from ..engine.preflight import check_folder
from ..errors import UserError
from ..files import temporary_beside
from .counting import ModelCount, count_model
from .sizes import Size
from .tables import LEGEND, as_dict, summary, table


def report(
    paths: Sequence[str | Path],
    *,
    options: dict[str, Any] | None = None,
    size: Size | None = None,
    json_file: str | None = None,
) -> bool:
    """Prints what the models of configs cost, each as soon as it is counted.

    What is wrong with a config is said on stderr and in the JSON, and the others are counted.

    Args:
        paths: Config files, and folders of configs.
        options: Values by dotted name, set in each config.
        size: Height and width of the image; default: each config's own.
        json_file: File to write as well; ``"-"`` prints JSON in place of the tables.

    Returns:
        Whether all configs could be counted.

    Raises:
        UserError: A folder has no configs, or ``json_file`` cannot be written.
    """
    configs = find_configs(paths)
    if json_file not in (None, "-"):
        _check_file(json_file)
    with_tables = json_file != "-"
    counts: dict[str, ModelCount] = {}
    errors: dict[str, str] = {}
    for path, result in count_configs(configs, options=options, size=size):
        if isinstance(result, UserError):
            errors[path] = str(result)
            print(f"error: {result}", file=sys.stderr)
        else:
            counts[path] = result
            if with_tables:
                print(table(path, result), end="\n\n", flush=True)
    if with_tables and counts:
        if len(counts) > 1:
            print(summary(counts), end="\n\n")
        print(LEGEND)
    content = dict(
        configs=[dict(config=path) | as_dict(count) for path, count in counts.items()],
        errors=[dict(config=path, error=error) for path, error in errors.items()],
    )
    text = json.dumps(content, indent=2) + "\n"
    if json_file == "-":
        print(text, end="")
    elif json_file is not None:
        with temporary_beside(Path(json_file)) as temporary:
            temporary.write_text(text)
            replace(temporary, json_file)
    return not errors


def count_configs(
    paths: Sequence[str | Path],
    *,
    options: dict[str, Any] | None = None,
    size: Size | None = None,
) -> Iterator[tuple[str, ModelCount | UserError]]:
    """Counts configs one by one; what is wrong with one does not keep the others from it.

    Args:
        paths: Config files.
        options: Values by dotted name, set in each config.
        size: Height and width of the image; default: each config's own.

    Yields:
        The path and its count, or what is wrong with it, in a sentence that names the file.
    """
    for path in map(str, paths):
        with _quiet_libraries():
            result = _count_config(path, options, size)
        yield path, result


def find_configs(paths: Sequence[str | Path]) -> list[Path]:
    """The configs that paths name: files, and all in folders but those below a ``_base_``.

    Raises:
        UserError: A folder has no configs.
    """
    found: dict[Path, None] = {}  # as a set that keeps the order
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted(
                file for file in path.rglob("*.py") if "_base_" not in file.relative_to(path).parts
            )
            if not files:
                raise UserError(f"{path}: there are no configs in this folder; check the path")
        found |= dict.fromkeys(files)
    return list(found)


def _count_config(
    path: str, options: dict[str, Any] | None, size: Size | None
) -> ModelCount | UserError:
    try:
        cfg = load_config(path, options)
    except UserError as error:  # it names the file
        return error
    try:
        return count_model(cfg, size)
    except UserError as error:
        return UserError(f"{path}: {error}")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps what mmengine logs and prints while building away from the tables and the JSON."""
    logging.disable(logging.INFO)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _check_file(path: str) -> None:
    check_folder(Path(path).parent, "--json")
    if Path(path).is_dir():
        raise UserError(f"--json {path}: this is a folder; name a file")
