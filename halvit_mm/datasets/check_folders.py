"""The check of images with a class each: folders, with or without a list, and archives."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from .check_classes import check_num_classes, configured_classes, shorten, type_name
from .check_images import refuse_bad_images
from .check_paths import find_ann_file, find_images, find_root, read_text
from .image_folders import list_images

FOLDER_TYPES = {"CustomDataset", "ImageNet", "ImageNet21k"}  # mmpretrain's that this file knows
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")  # theirs
_DIGITS = 10  # of a label
_LOOKED_AT = 20_000  # images of a set; of a larger one so many that are evenly spread


def check_folders(
    dataset: Mapping, *, option: str, num_classes: int | Mapping[str, int] | None = None
) -> None:
    """Checks that the images and their list are there, can be read and fit the model.

    Args:
        dataset: Config of a data set of one of :data:`FOLDER_TYPES`.
        option: Its path in the config.
        num_classes: The model's number of classes, or what ``count_classes`` found.

    Raises:
        UserError: Something is missing, empty or broken, or contradicts the model.
    """
    root = find_root(dataset, option=option)
    folder = _image_folder(dataset, root, option)
    classes = configured_classes(dataset, option=option, package="mmpretrain")
    labelled = _is_labelled(dataset)
    ann_file = _ann_file(dataset, root)
    if ann_file:
        file = find_ann_file(root, ann_file, option=option)
        names, labels = _read_list(file, labelled)
        _check_labels(labels, file, classes, option, num_classes)
        _check_images([folder / name for name in names], f"that {file} names", option)
    else:
        images = list_images(folder, _EXTENSIONS)
        if not images:
            raise UserError(
                f"there is no image ({', '.join(_EXTENSIONS)}) in {folder}: correct "
                f"{option}.data_prefix, or fetch the data set"
            )
        if labelled:
            folders = _class_folders(folder)
            _check_class_folders(folder, folders, classes, option)
            classes = folders
        _check_images([Path(image) for image in images], f"in {folder}", option)
    if classes is not None and labelled:
        check_num_classes(num_classes, classes, option=option)


def list_folders(dataset: Mapping, *, option: str) -> tuple[list[Path], list[str]]:
    """The images of a data set of one of :data:`FOLDER_TYPES` and the names of their classes.

    Args:
        dataset: Its config.
        option: Its path in the config.

    Returns:
        The images; the class of each, by its folder or its number, or nothing where there is none.

    Raises:
        UserError: A folder or the list of images is missing or wrong.
    """
    root = find_root(dataset, option=option)
    folder = _image_folder(dataset, root, option)
    ann_file = _ann_file(dataset, root)
    if ann_file:
        file = find_ann_file(root, ann_file, option=option)
        names, labels = _read_list(file, _is_labelled(dataset))
        classes = configured_classes(dataset, option=option, package="mmpretrain")
        known = dict(enumerate(classes or ()))
        return [folder / name for name in names], [known.get(i, f"label {i}") for i in labels]
    images = [Path(image) for image in list_images(folder, _EXTENSIONS)]
    if not _is_labelled(dataset):
        return images, []
    return images, [image.relative_to(folder).parts[0] for image in images]


def check_labelled_images(
    dataset: Mapping, *, option: str, num_classes: int | Mapping[str, int] | None = None
) -> None:
    """Checks a split that :class:`~halvit_mm.datasets.LabelledImages` reads.

    Args:
        dataset: Its config.
        option: Its path in the config.
        num_classes: The model's number of classes, or what ``count_classes`` found.

    Raises:
        UserError: Something is missing, empty or broken, or contradicts the model.
    """
    from .labelled_images import Split

    find_root(dataset, option=option)
    given = (dataset.get("metainfo") or {}).get("classes")
    try:
        split = Split.find(dataset["data_root"], dataset["split"], given)
    except KeyError as error:
        raise UserError(f"{option}.{error.args[0]} is not set: LabelledImages needs it") from error
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
    if split.archive is None:  # an archive's images are looked at whenever it is read
        images = [Path(entry["img_path"]) for entry in split.entries]
        _check_images(images, f"in {split.source}", option)
    check_num_classes(num_classes, split.classes, option=option)


def check_same_classes(datasets: Mapping[str, Mapping]) -> None:
    """Compares the classes of data sets of which labels must mean the same.

    Where classes are numbered by the order of their folders, a folder that is missing in one of
    two splits would exchange labels without a sign. Lists of images have the numbers themselves,
    and may lack classes.

    Args:
        datasets: Configs of sound data sets by their paths in the config.

    Raises:
        UserError: A class is in one of the sets, but not in another.
    """
    known = {option: _folder_names(dataset) for option, dataset in datasets.items()}
    known = {option: names for option, names in known.items() if names is not None}
    if not known:
        return
    first, expected = next(iter(known.items()))
    for option, names in known.items():
        absent = [name for name in expected if name not in set(names)]
        more = [name for name in names if name not in set(expected)]
        if absent or more:
            differences = [
                f"{word} the {shorten(classes)}"
                for word, classes in (("lacks", absent), ("has", more))
                if classes
            ]
            raise UserError(
                f"{option} {' and '.join(differences)}, other than {first}, so that labels would "
                "not agree: make a folder for each class in both, if need be an empty one"
            )
        if list(names) != list(expected):
            raise UserError(
                f"{option} has the classes of {first} in another order, so that labels would not "
                "agree: make both by the same command"
            )


def _image_folder(dataset: Mapping, root: Path, option: str) -> Path:
    prefix = dataset.get("data_prefix") or dataset.get("split") or ""
    prefix = prefix.get("img_path", "") if isinstance(prefix, Mapping) else prefix
    return find_images(root, prefix, option=option)


def _is_labelled(dataset: Mapping) -> bool:
    return dataset.get("with_label", dataset.get("split") != "test")


def _ann_file(dataset: Mapping, root: Path) -> str | None:
    """The list of images, if there is one; ImageNet looks for it by itself."""
    listed = f"meta/{dataset.get('split')}.txt"
    return dataset.get("ann_file") or (listed if (root / listed).is_file() else None)


def _class_folders(folder: Path) -> list[str]:
    """As mmpretrain counts classes, hidden folders included."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _folder_names(dataset: Mapping) -> Sequence[str] | None:
    """What the folders of a set are called from which its classes are numbered, if they are."""
    if type_name(dataset) == "LabelledImages":
        from .labelled_images import folder_names

        return folder_names(dataset["data_root"], dataset["split"])
    if type_name(dataset) not in FOLDER_TYPES or not _is_labelled(dataset):
        return None
    root = Path(dataset.get("data_root") or "")
    return None if _ann_file(dataset, root) else _class_folders(_image_folder(dataset, root, ""))


def _check_class_folders(
    folder: Path, folders: list[str], classes: list[str] | None, option: str
) -> None:
    if not folders:
        raise UserError(
            f"{folder} has images, but no folder a class: sort them into folders, or name a list "
            f"of them in {option}.ann_file"
        )
    if classes is None:
        return
    if len(folders) != len(classes):
        raise UserError(
            f"{folder} has {len(folders)} folders, one a class, but {option} has "
            f"{shorten(classes)}: correct {option}.data_prefix or {option}.metainfo.classes, or "
            f"name a list of images with their labels in {option}.ann_file"
        )
    if classes != folders == sorted(classes):
        raise UserError(
            f"the classes of {option} are the folders of {folder} in another order, which "
            "would exchange the names, as folders count in the order of the alphabet: sort "
            f"{option}.metainfo.classes"
        )


def _read_list(file: Path, labelled: bool) -> tuple[list[str], list[int]]:
    """The images and, if there are any, labels of a file with an image a line."""
    lines = read_text(file).splitlines()
    if not lines:
        raise UserError(f"{file} lists no images: the data set is empty, make it anew")
    if not labelled:
        return lines, []
    names, labels = [], []
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ")
        whole = label.removeprefix("-").isdecimal() and len(label) < _DIGITS
        if not name or "\0" in name or not whole:
            raise UserError(
                f"line {number} of {file} is not an image and its label, 'FILE NUMBER': correct it"
            )
        names.append(name)
        labels.append(int(label))
    return names, labels


def _check_labels(
    labels: list[int],
    file: Path,
    classes: list[str] | None,
    option: str,
    num_classes: int | Mapping[str, int] | None,
) -> None:
    heads = [num_classes] if isinstance(num_classes, int) else list((num_classes or {}).values())
    limits = heads if classes is None else [*heads, len(classes)]
    for label in (min(labels, default=0), max(labels, default=0)):
        if label < 0 or any(label >= limit for limit in limits):
            count = f" has {min(limits)} classes," if limits else "'s classes are"
            raise UserError(
                f"{file} has the label {label}, but the model or {option}{count} numbered from 0: "
                "correct the file or num_classes"
            )


def _check_images(paths: list[Path], which: str, option: str) -> None:
    step = -(-len(paths) // _LOOKED_AT)
    if step > 1:
        which = f"looked at, among the {len(paths)} {which},"
    refuse_bad_images(paths[::step], which=which, option=option)
