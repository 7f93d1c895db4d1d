"""A data set in COCO's format: its annotation file, the classes it is to have, its image files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .check_classes import check_num_classes, configured_classes, shorten, type_name
from .check_images import (
    Progress,
    find_bad_images,
    find_other_sizes,
    find_undecodable,
)
from .check_paths import find_ann_file, find_images, find_root, is_text
from .coco_columns import short
from .coco_faults import note_coco_faults
from .coco_json import Parsed, read_json
from .faults import Faults

_LISTS = ("images", "annotations", "categories")
# In the names of mmdet's data sets whose files have the same lists with other entries.
_OTHER_ENTRIES = ("LVIS", "Panoptic", "Caption", "RefCoco")


@dataclass(frozen=True, eq=False)
class CocoSet:
    """A data set in COCO's format as its config describes it.

    Attributes:
        dataset: Its config.
        option: Its path in the config, which messages name.
        root: The folder that its paths are relative to.
        file: The annotation file.
        parsed: What is in it. The lists are lists, all else may be wrong.
    """

    dataset: Mapping
    option: str
    root: Path
    file: Path
    parsed: Parsed

    @classmethod
    def read(cls, dataset: Mapping, *, option: str) -> "CocoSet | None":
        """Reads the annotation file; None if it has another format, which its type may want.

        Raises:
            UserError: It is missing, damaged, or of a format that its type cannot read.
        """
        root = find_root(dataset, option=option)
        if not dataset.get("ann_file"):
            raise UserError(f"{option}.ann_file is not set: name the annotation file there")
        file = find_ann_file(root, dataset["ann_file"], option=option)
        parsed = read_json(file)
        if any(word in type_name(dataset) for word in _OTHER_ENTRIES):
            return None
        if not _has_lists(parsed.content, annotated=not dataset.get("test_mode", False)):
            if type_name(dataset) != "CocoDataset":
                return None
            raise UserError(
                f"{file} is not an annotation file in COCO's format, which has the lists 'images', "
                f"'annotations' and 'categories': correct {option}.ann_file"
            )
        for what in ("images", "annotations"):
            if parsed.content.get(what) == []:
                raise UserError(f"{file} lists no {what}: the data set is empty, make it anew")
        return cls(dataset, option, root, file, parsed)

    @property
    def images(self) -> list:
        """The file's entries for images."""
        return self.parsed.content["images"]

    def find_faults(self, *, keep: int | None, thorough: bool = False) -> Faults:
        """What is wrong with the file's content.

        Args:
            keep: How many faults of each kind to keep as examples; None for all.
            thorough: Whether to look also for what takes long and is no mistake.
        """
        evaluated = bool(self.dataset.get("test_mode", False))
        filtering = {} if evaluated else self.dataset.get("filter_cfg") or {}
        faults = Faults(evaluated=evaluated, keep=keep)
        note_coco_faults(
            self.parsed,
            faults,
            masks=_needs_masks(self.dataset),
            classes=self._classes(),
            min_size=filtering.get("min_size", 0),
            crossings=thorough,
        )
        return faults

    def check_classes(self, num_classes: int | Mapping[str, int] | None) -> None:
        """Compares the categories of a file without faults with the config and the model.

        Raises:
            UserError: They contradict each other, or no annotation is used.
        """
        classes, categories = self._classes(), self.parsed.content["categories"]
        if classes is not None:
            _check_names([category["name"] for category in categories], classes, self)
            check_num_classes(num_classes, classes, option=self.option)
        annotations = self.parsed.content.get("annotations")
        wanted = {c["id"] for c in categories if classes is None or c["name"] in classes}
        if annotations and not any(a["category_id"] in wanted for a in annotations):
            raise UserError(
                f"{self.file} has no annotation of "
                f"{'its categories' if classes is None else 'the ' + shorten(classes)}: the set is "
                "empty, so nothing can be learnt or measured; correct the file or the classes"
            )

    def image_folder(self) -> Path:
        """The folder of the images.

        Raises:
            UserError: There is none.
        """
        prefix = self.dataset.get("data_prefix")
        if not isinstance(prefix, Mapping) or "img" not in prefix:
            raise UserError(
                f"{self.option}.data_prefix does not say where the images are: set it to "
                "dict(img='FOLDER/')"
            )
        return find_images(self.root, prefix["img"], option=self.option)

    def image_paths(self) -> dict[int, Path]:
        """The files of the images, by their place in the list; of those that name a file.

        Raises:
            UserError: There is no folder of images.
        """
        folder = self.image_folder()
        return {
            i: folder / image["file_name"]
            for i, image in enumerate(self.images)
            if _names_a_file(image)
        }

    def note_bad_images(self, paths: dict[int, Path], faults: Faults) -> dict[int, Path]:
        """Notes the images that are missing or cannot be read, and returns the others."""
        bad = find_bad_images(list(paths.values()))
        missing = set(bad.missing)
        absent = [i for i, path in paths.items() if path in missing]
        self._note("missing image", absent, lambda i: f"{paths[i]} does not exist", faults)
        broken = [i for i, path in paths.items() if path in bad.broken]
        self._note(
            "broken image",
            broken,
            lambda i: f"{paths[i]} cannot be read ({bad.broken[paths[i]]})",
            faults,
        )
        return {i: p for i, p in paths.items() if p not in missing and p not in bad.broken}

    def note_other_sizes(self, paths: dict[int, Path], faults: Faults) -> None:
        """Notes the images that have another size than their entries say."""
        said = {i: (self.images[i].get("width"), self.images[i].get("height")) for i in paths}
        other = find_other_sizes(paths, said)
        self._note(
            "other size",
            list(other),
            lambda i: f"{paths[i]} has {_shown(other[i])}, its entry says {_shown(said[i])}",
            faults,
        )

    def note_undecodable(self, paths: dict[int, Path], faults: Faults, show: Progress) -> None:
        """Decodes images that look whole, and notes those that cannot be decoded."""
        broken = find_undecodable(list(paths.values()), show)
        numbers = [i for i, path in paths.items() if path in broken]
        self._note("broken image", numbers, lambda i: f"{paths[i]}: {broken[paths[i]]}", faults)

    def _note(
        self, kind: str, numbers: Sequence[int], say: Callable[[int], str], faults: Faults
    ) -> None:
        def describe(i: int) -> dict[str, Any]:
            image_id = self.images[i].get("id")
            return dict(sentence=say(i), image_id=image_id if type(image_id) is int else None)

        faults.add_all(kind, numbers, describe)

    def _classes(self) -> list[str] | None:
        return configured_classes(self.dataset, option=self.option, package="mmdet")


def _shown(size: tuple | None) -> str:
    return f"{short(size[0])} × {short(size[1])} pixels" if size else "no size that can be read"


def _has_lists(content: object, *, annotated: bool) -> bool:
    """Whether the lists are there; a test set may come without annotations."""
    if not isinstance(content, dict):
        return False
    content = content if annotated else {"annotations": [], **content}
    return all(isinstance(content.get(key), list) for key in _LISTS)


def _check_names(names: Sequence[str], classes: Sequence[str], coco: CocoSet) -> None:
    """mmdet numbers the classes in the order of the file and passes over those it lacks."""
    missing = [name for name in classes if name not in names]
    if missing:
        lack = "none" if len(missing) == len(classes) else f"only {len(classes) - len(missing)}"
        raise UserError(
            f"{lack} of the {shorten(classes)} of {coco.option} are among the categories of "
            f"{coco.file}, which has {shorten(names)} and lacks "
            f"{', '.join(map(repr, missing[:10]))}{', …' if len(missing) > 10 else ''}: set "
            f"{coco.option}.metainfo to dict(classes=({', '.join(map(repr, names[:5]))},"
            f"{' …' if len(names) > 5 else ''})) or correct the file"
        )
    found = [name for name in names if name in classes]
    if found != list(classes):
        raise UserError(
            f"the categories of {coco.file} come in the order {', '.join(map(repr, found))}, but "
            f"{coco.option}.metainfo.classes in the order {', '.join(map(repr, classes))}, which "
            "would exchange the names: list each class once, in the order of the file"
        )


def _needs_masks(dataset: Mapping) -> bool:
    return any(
        step.get("type") == "LoadAnnotations" and step.get("with_mask", False)
        for step in dataset.get("pipeline") or ()
    )


def _names_a_file(image: Any) -> bool:
    name = image.get("file_name") if isinstance(image, dict) else None
    return isinstance(name, str) and is_text(name)
