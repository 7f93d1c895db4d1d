"""Is the data set of a config there, whole, and fit for the model? Seconds, before hours."""

from collections.abc import Iterator, Mapping

from .check_classes import count_classes, type_name
from .check_coco import check_coco
from .check_folders import (
    FOLDER_TYPES,
    check_folders,
    check_labelled_images,
    check_same_classes,
)

__all__ = [
    "check_classes_agree",
    "check_dataset",
    "count_classes",
    "innermost_datasets",
    "is_remote",
]


def check_dataset(
    dataset: Mapping, *, option: str, num_classes: int | Mapping[str, int] | None = None
) -> None:
    """Checks a data set as its config describes it; those it wraps likewise.

    Data sets in COCO's format, mmpretrain's folders of images and ``LabelledImages`` are checked.
    Other types, and files that are not on a local disk, are passed over. Of many images a part is
    looked at.

    Args:
        dataset: Config of the data set, e.g. ``cfg.train_dataloader.dataset``.
        option: Its path in the config, which messages name.
        num_classes: The model's number of classes, or what :func:`count_classes` found, so that a
            message can name the head.

    Raises:
        UserError: The data set is missing, empty or damaged, or does not fit the model.
    """
    for inner, path in innermost_datasets(dataset, option):
        if is_remote(inner):
            continue
        if type_name(inner) in FOLDER_TYPES:
            check_folders(inner, option=path, num_classes=num_classes)
        elif type_name(inner) == "LabelledImages":
            check_labelled_images(inner, option=path, num_classes=num_classes)
        elif type_name(inner) == "CocoDataset" or str(inner.get("ann_file")).endswith(".json"):
            check_coco(inner, option=path, num_classes=num_classes)


def check_classes_agree(datasets: Mapping[str, Mapping]) -> None:
    """Checks that labels mean the same in data sets that :func:`check_dataset` found sound.

    Args:
        datasets: Configs of the data sets by their paths in the config; the others are compared
            with the first.

    Raises:
        UserError: Classes are numbered by their folders, and the folders differ.
    """
    inner = {}
    for option, dataset in datasets.items():
        inner |= {
            path: part for part, path in innermost_datasets(dataset, option) if not is_remote(part)
        }
    check_same_classes(inner)


def innermost_datasets(dataset: Mapping, option: str) -> Iterator[tuple[Mapping, str]]:
    """The data sets that are in no other one, with their paths in the config.

    Args:
        dataset: Config of a data set, which may wrap another one or several.
        option: Its path in the config.
    """
    if isinstance(dataset.get("dataset"), Mapping):
        yield from innermost_datasets(dataset["dataset"], f"{option}.dataset")
    elif isinstance(dataset.get("datasets"), list | tuple):
        for i, inner in enumerate(dataset["datasets"]):
            yield from innermost_datasets(inner, f"{option}.datasets.{i}")
    else:
        yield dataset, option


def is_remote(dataset: Mapping) -> bool:
    """Whether a data set's files are not on a local disk."""
    backend = (dataset.get("backend_args") or {}).get("backend", "local")
    paths = (dataset.get("data_root"), dataset.get("ann_file"))
    return backend != "local" or any("://" in str(path) for path in paths)
