"""The classes of a data set's config beside those of the model's heads."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UserError
from .check_paths import read_text

# Parts of a model whose `num_classes` counts something else than the classes of the data set.
_OTHER_COUNTS = {"backbone", "rpn_head", "semantic_head"}


def count_classes(model: Any, option: str = "model") -> dict[str, int]:
    """Every ``num_classes`` in a model's config, by the path of the option.

    Parts that count something else (backbone, proposals, semantic segmentation) are left out.

    >>> count_classes(dict(roi_head=dict(bbox_head=[dict(num_classes=1)])))
    {'model.roi_head.bbox_head.0.num_classes': 1}
    """
    if isinstance(model, Mapping):
        entries = [(k, v) for k, v in model.items() if k not in _OTHER_COUNTS]
    elif isinstance(model, list | tuple):
        entries = list(enumerate(model))
    else:
        return {}
    counts = {}
    for key, value in entries:
        if key == "num_classes" and isinstance(value, int):
            counts[f"{option}.{key}"] = value
        else:
            counts |= count_classes(value, f"{option}.{key}")
    return counts


def check_num_classes(
    num_classes: int | Mapping[str, int] | None, classes: Sequence[str], *, option: str
) -> None:
    """Compares the heads with the data set.

    Args:
        num_classes: The model's number of classes, or what :func:`count_classes` found.
        classes: Names of the data set's classes.
        option: Path of the data set in the config.

    Raises:
        UserError: A head has another number of classes than the data set.
    """
    if num_classes is None:
        return
    if isinstance(num_classes, int):
        num_classes = {"the model's num_classes": num_classes}
    wrong = {name: count for name, count in num_classes.items() if count != len(classes)}
    if wrong:
        raise UserError(
            f"{' and '.join(f'{name}={count}' for name, count in wrong.items())} "
            f"{'contradicts' if len(wrong) == 1 else 'contradict'} {option}, which has "
            f"{shorten(classes)}: set {' '.join(f'{name}={len(classes)}' for name in wrong)}, "
            f"or correct {option}.metainfo.classes"
        )


def configured_classes(dataset: Mapping, *, option: str, package: str) -> list[str] | None:
    """The classes that a data set is told to use, else those its type has by default.

    Args:
        dataset: Config of the data set.
        option: Its path in the config.
        package: The package that knows the type: mmdet or mmpretrain.

    Returns:
        The names; None if the type has no default or is not known to ``package``.

    Raises:
        UserError: The classes are one string instead of a tuple.
    """
    key = "metainfo.classes"
    classes = (dataset.get("metainfo") or {}).get("classes")
    if classes is None and package == "mmpretrain":
        key, classes = "classes", dataset.get("classes")
    if classes is None:
        return _default_classes(dataset, package)
    if isinstance(classes, str):  # both packages take a string for a file with a name a line
        if Path(classes).is_file():
            return read_text(Path(classes)).splitlines()
        raise UserError(
            f"{option}.{key} is the string {classes!r}: write a tuple, with a comma also after a "
            f"single class: ({classes!r},)"
        )
    return list(classes)


def type_name(dataset: Mapping) -> str:
    """The name of a data set's type, without the package that it may be prefixed with."""
    kind = dataset.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def shorten(names: Sequence[str]) -> str:
    """A number of classes with the first of their names: ``2 classes ('a', 'b')``."""
    shown = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
    return f"{len(names)} class{'' if len(names) == 1 else 'es'}" + (f" ({shown})" if names else "")


def _default_classes(dataset: Mapping, package: str) -> list[str] | None:
    kind = dataset.get("type")
    if isinstance(kind, str):
        import_module(f"{package}.datasets")
        kind = import_module(f"{package}.registry").DATASETS.get(kind)
    classes = getattr(kind, "METAINFO", {}).get("classes")
    return None if classes is None else list(classes)
