"""Everything that is wrong with the data sets of a config, at once."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import UserError
from .check import check_dataset, innermost_datasets, is_remote
from .check_classes import count_classes, type_name
from .check_folders import FOLDER_TYPES, list_folders
from .check_images import Progress, find_bad_images, find_undecodable
from .coco_rules import RULES
from .coco_set import CocoSet
from .faults import Faults

#: Faults of a kind that a report names one by one; the others are counted.
KEPT = 1000
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_CLASSES_SHOWN = 5


@dataclass
class SetReport:
    """What there is in a data set, and what is wrong with it.

    Attributes:
        option: Its path in the config, or its file.
        source: The annotation file or the folder, if it is known.
        images: Number of images.
        annotations: Number of annotations; None where images have a class instead.
        classes: Number of annotations or images of each class.
        faults: What is wrong with single entries and files.
        errors: What else the set is refused for, a sentence each.
        notes: What was not looked at.
        coco: The content, of a set in COCO's format that could be read.
    """

    option: str
    source: str | None = None
    images: int = 0
    annotations: int | None = None
    classes: dict[str, int] = field(default_factory=dict)
    faults: Faults = field(default_factory=lambda: Faults(keep=KEPT))
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    coco: CocoSet | None = None

    @property
    def title(self) -> str:
        """Where the set is."""
        known = self.source is None or self.source == self.option
        return self.option if known else f"{self.option}: {self.source}"

    @property
    def refused(self) -> bool:
        """Whether training or testing refuses the set."""
        return bool(self.errors or self.faults.of(refused=True))

    @property
    def handled(self) -> bool:
        """Whether a rule deals with faults of the set."""
        return bool(self.faults.of(refused=False))

    def as_data(self) -> dict[str, Any]:
        """What is written to JSON."""
        return dict(
            set=self.option,
            source=self.source,
            images=self.images,
            annotations=self.annotations,
            classes=self.classes,
            refused=self.faults.of(refused=True),
            handled=self.faults.of(refused=False),
            errors=self.errors,
            notes=self.notes,
            faults=[
                asdict(fault) | dict(treatment=fault.treatment)
                for examples in self.faults.examples.values()
                for fault in examples
            ],
        )

    def lines(self, examples: int) -> list[str]:
        """The report as text, with so many examples of each kind of fault."""
        lines = [self.title]
        what = "images" if self.annotations is None else f"images, {self.annotations} annotations"
        if self.images:
            lines.append(f"  {self.images} {what}, {self._count_classes()}")
        lines += [f"  refused: {error}" for error in self.errors]
        for refused in (True, False):
            for kind, count in self.faults.of(refused=refused).items():
                rule = RULES[kind]
                verdict = "refused" if refused else "dealt with"
                lines.append(f"  {verdict}: {rule.fault} ({count}): {rule.treatment}")
                shown = self.faults.examples[kind][:examples]
                lines += [f"    {fault.sentence}" for fault in shown]
                lines += ["    …"] if shown and count > len(shown) else []
        lines += [f"  note: {note}" for note in self.notes]
        if not self.refused and not self.handled:
            lines.append("  nothing is wrong")
        return lines

    def _count_classes(self) -> str:
        ordered = sorted(self.classes.items(), key=lambda item: -item[1])
        named = [f"{name!r} {count}" for name, count in ordered]
        if len(named) > 2 * _CLASSES_SHOWN:
            named[_CLASSES_SHOWN:-_CLASSES_SHOWN] = ["…"]
        return f"{len(self.classes)} class{'' if len(named) == 1 else 'es'}: {', '.join(named)}"


def report_config(cfg: Config, *, decode: Progress | None = None) -> list[SetReport]:
    """Looks at all data sets that a config trains, validates and tests with.

    Args:
        cfg: The config.
        decode: Decodes every image as well, and shows how far it is; None only looks at their
            beginnings and ends.

    Raises:
        UserError: The config has no data set.
    """
    num_classes = count_classes(cfg.get("model"))
    reports, seen = [], []
    for loader in _LOADERS:
        dataset = (cfg.get(loader) or {}).get("dataset")
        for inner, option in innermost_datasets(dataset, f"{loader}.dataset") if dataset else ():
            if inner in seen:  # often one set is for validation and test
                continue
            seen.append(inner)
            reports.append(_report(inner, option, num_classes, decode))
    if not reports:
        raise UserError(f"the config {cfg.filename} has none of {', '.join(_LOADERS)}")
    return reports


def report_file(
    file: Path, images: Path | None, *, evaluated: bool = False, decode: Progress | None = None
) -> SetReport:
    """Looks at an annotation file in COCO's format, without a config.

    All its categories count as classes. Segmentations are looked at if it has any.

    Args:
        file: The annotation file.
        images: The folder of its images; None leaves them out.
        evaluated: Whether it is for validation or test, rather than for training.
        decode: See :func:`report_config`.
    """
    dataset = dict(type="CocoDataset", ann_file=str(file.absolute()), test_mode=evaluated)
    if images is not None:
        dataset["data_prefix"] = dict(img=str(images.absolute()))

    def complete(coco: CocoSet) -> CocoSet:
        entries = coco.parsed.content.get("annotations") or []
        masks = any(isinstance(entry, dict) and entry.get("segmentation") for entry in entries)
        more = dict(
            metainfo=dict(classes=list(_category_names(coco).values())),
            pipeline=[dict(type="LoadAnnotations", with_mask=masks)],
        )
        return replace(coco, dataset={**dataset, **more})

    report = _report_coco(dataset, str(file), {}, decode, complete, images=images is not None)
    if images is None:
        report.notes.append("image files are looked at with --images FOLDER")
    return report


def _report(
    dataset: Mapping, option: str, num_classes: dict[str, int], decode: Progress | None
) -> SetReport:
    kind = type_name(dataset)
    if is_remote(dataset):
        return SetReport(option, notes=["it is on no local disk and was not looked at"])
    if kind in FOLDER_TYPES or kind == "LabelledImages":
        return _report_classes(dataset, option, num_classes, decode)
    if kind == "CocoDataset" or str(dataset.get("ann_file")).endswith(".json"):
        return _report_coco(dataset, option, num_classes, decode)
    return SetReport(option, notes=[f"sets of type {kind} are not looked at"])


def _report_coco(
    dataset: Mapping,
    option: str,
    num_classes: dict[str, int],
    decode: Progress | None,
    complete: Callable[[CocoSet], CocoSet] = lambda coco: coco,
    *,
    images: bool = True,
) -> SetReport:
    report = SetReport(option)
    try:
        coco = CocoSet.read(dataset, option=option)
        if coco is None:
            report.notes.append(f"the format of {type_name(dataset)} is not looked at")
            return report
        report.coco = coco = complete(coco)
        report.source = str(coco.file)
        report.faults = coco.find_faults(keep=KEPT, thorough=True)
        _count(report, coco)
        if report.faults.of(refused=True):
            report.notes.append("classes are compared with the model once nothing is refused")
        else:
            coco.check_classes(num_classes)
    except UserError as error:
        report.errors.append(str(error))
    if report.coco is None or not images:
        return report
    try:
        paths = coco.image_paths()
        paths = coco.note_bad_images(paths, report.faults)
        coco.note_other_sizes(paths, report.faults)
        if decode is not None:
            coco.note_undecodable(paths, report.faults, decode)
    except UserError as error:
        report.errors.append(str(error))
    return report


def _category_names(coco: CocoSet) -> dict[int, str]:
    entries = coco.parsed.content["categories"]
    return {
        entry["id"]: entry["name"]
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("id"), int)
        and isinstance(entry.get("name"), str)
    }


def _count(report: SetReport, coco: CocoSet) -> None:
    annotations = coco.parsed.content.get("annotations") or []
    report.images, report.annotations = len(coco.images), len(annotations)
    names = _category_names(coco)
    numbers = Counter(
        entry["category_id"]
        for entry in annotations
        if isinstance(entry, dict) and isinstance(entry.get("category_id"), int)
    )
    report.classes = {name: numbers[number] for number, name in names.items()}


def _report_classes(
    dataset: Mapping, option: str, num_classes: dict[str, int], decode: Progress | None
) -> SetReport:
    report = SetReport(option)
    try:
        check_dataset(dataset, option=option, num_classes=num_classes)
    except UserError as error:
        report.errors.append(str(error))
    try:
        paths, classes = _list_images(dataset, option, report)
    except (UserError, KeyError):
        return report  # said by the check
    report.images = len(classes) or len(paths)
    report.classes = dict(Counter(classes))
    bad = find_bad_images(paths)
    missing = set(bad.missing)
    say = {path: f"{path} does not exist" for path in paths if path in missing}
    report.faults.add_all("missing image", say, lambda path: dict(sentence=say[path]))
    broken = dict(bad.broken)
    if decode is not None:
        sound = [path for path in paths if path not in missing and path not in broken]
        broken |= find_undecodable(sound, decode)
    report.faults.add_all(
        "broken image",
        broken,
        lambda path: dict(sentence=f"{path} cannot be read ({broken[path]})"),
    )
    return report


def _list_images(dataset: Mapping, option: str, report: SetReport) -> tuple[list[Path], list[str]]:
    """The image files and the class of each image; an archive has no files."""
    if type_name(dataset) != "LabelledImages":
        report.source = str(Path(dataset.get("data_root") or ""))
        return list_folders(dataset, option=option)
    from .labelled_images import Split

    split = Split.find(dataset["data_root"], dataset["split"])
    report.source = str(split.source)
    classes = [split.classes[entry["gt_label"]] for entry in split.entries]
    files = split.entries if split.archive is None else ()
    return [Path(entry["img_path"]) for entry in files], classes
