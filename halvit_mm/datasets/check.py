"""Is the data set of a config there, whole, and fit for the model? Seconds, before hours."""

from collections.abc import Iterator, Mapping

from .check_classes import count_classes, type_name
from .check_coco import check_coco
from .check_folders import FOLDER_TYPES, check_folders

__all__ = ["check_dataset", "count_classes"]


def check_dataset(
    dataset: Mapping, *, option: str, num_classes: int | Mapping[str, int] | None = None
) -> None:
    """Checks a data set as its config describes it; those it wraps likewise.

    Data sets in COCO's format and mmpretrain's folders of images are checked. Other types, and
    files that are not on a local disk, are passed over.

    Args:
        dataset: Config of the data set, e.g. ``cfg.train_dataloader.dataset``.
        option: Its path in the config, which messages name.
        num_classes: The model's number of classes, or what :func:`count_classes` found, so that a
            message can name the head.

    Raises:
        UserError: The data set is missing, empty or damaged, or does not fit the model.
    """
    for inner, path in _unwrap(dataset, option):
        if _is_remote(inner):
            continue
        if type_name(inner) in FOLDER_TYPES:
            check_folders(inner, option=path, num_classes=num_classes)
        elif type_name(inner) == "CocoDataset" or str(inner.get("ann_file")).endswith(".json"):
            check_coco(inner, option=path, num_classes=num_classes)


def _unwrap(dataset: Mapping, option: str) -> Iterator[tuple[Mapping, str]]:
    """The innermost data sets with their paths in the config."""
    if isinstance(dataset.get("dataset"), Mapping):
        yield from _unwrap(dataset["dataset"], f"{option}.dataset")
    elif isinstance(dataset.get("datasets"), list | tuple):
        for i, inner in enumerate(dataset["datasets"]):
            yield from _unwrap(inner, f"{option}.datasets.{i}")
    else:
        yield dataset, option


def _is_remote(dataset: Mapping) -> bool:
    backend = (dataset.get("backend_args") or {}).get("backend", "local")
    paths = (dataset.get("data_root"), dataset.get("ann_file"))
    return backend != "local" or any("://" in str(path) for path in paths)
