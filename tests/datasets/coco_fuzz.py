"""Puts spoilt files through the check and, what it lets through, through mmdet; a line for each.

    python coco_fuzz.py FOLDER RANDOM_SEEDS > outcomes

A process of its own, as pycocotools can crash, with a limit on its memory.
"""

import contextlib
import gc
import io
import itertools
import json
import resource
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import coco_oracle as oracle
import numpy as np
import torch
from coco_mutations import Mutation, random_bytes, random_content, structured, written
from mmengine.registry import init_default_scope

from halvit_mm.datasets.check import check_dataset
from halvit_mm.datasets.coco_set import CocoSet
from halvit_mm.errors import UserError

_MEMORY = 3 << 30  # bytes beyond what importing takes


def main() -> None:
    folder, seeds = Path(sys.argv[1]), int(sys.argv[2])
    import mmdet.datasets
    import mmdet.datasets.transforms
    import mmdet.evaluation  # noqa: F401

    init_default_scope("mmdet")
    gc.freeze()  # mmengine collects garbage for every data set, which takes half a second
    torch.set_num_threads(1)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + _MEMORY,) * 2)
    oracle.write_images(folder)
    random = (make(seed) for seed in range(seeds) for make in (random_content, random_bytes))
    for mutation in itertools.chain(structured(), written(), random):
        print(json.dumps(dict(started=mutation.name)), flush=True)
        print(json.dumps(examine(mutation, folder)), flush=True)


def examine(mutation: Mutation, folder: Path) -> dict:
    """What became of a file: of each mode ``"refused"``, ``"loaded"`` or what went wrong."""
    file = folder / "spoilt.json"
    file.write_bytes(mutation.data)
    start = time.process_time()
    outcome = dict(name=mutation.name, expected=mutation.kind)
    for mode, test_mode in (("training", False), ("evaluation", True)):
        dataset = oracle.config(folder, file, test_mode=test_mode)
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                check_dataset(dataset, option=f"{mode}.dataset", num_classes=3)
        except UserError as error:
            outcome[mode], outcome[f"{mode} message"] = "refused", str(error)
            continue
        except BaseException:
            outcome[mode] = traceback.format_exc()
            continue
        try:
            with contextlib.redirect_stdout(said):
                outcome[mode] = compare(dataset, file, test_mode=test_mode) or "loaded"
        except BaseException:
            outcome[mode] = traceback.format_exc()
    outcome["kinds"] = kinds(folder, file)
    outcome["seconds"] = time.process_time() - start
    outcome["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return outcome


def kinds(folder: Path, file: Path) -> list[str]:
    """Every fault that the report would count."""
    try:
        coco = CocoSet.read(oracle.config(folder, file, test_mode=False), option="")
        faults = coco.find_faults(keep=3, thorough=True)
        paths = coco.note_bad_images(coco.image_paths(), faults)
        coco.note_other_sizes(paths, faults)
    except UserError:
        return []
    for examples in faults.examples.values():
        assert all(str(fault.sentence) and fault.treatment for fault in examples)
    return list(faults.counts)


def compare(dataset: dict, file: Path, *, test_mode: bool) -> str | None:
    """How what mmdet loads differs from the rules; None if it does not."""
    from mmdet.registry import DATASETS

    content = oracle.read(file)
    expected = oracle.expected_load(content, test_mode=test_mode)
    loaded = DATASETS.build(dataset)
    if len(loaded) != len(expected):
        return f"{len(loaded)} images instead of {len(expected)}"
    samples = []
    for i, (place, things) in enumerate(expected.items()):
        sample = loaded[i]["data_samples"]
        if not sample.img_path.endswith(place.split(" ", 1)[1]):
            return f"{sample.img_path} instead of {place}"
        for ignored, found in ((False, sample.gt_instances), (True, sample.ignored_instances)):
            wanted = [thing for thing in things if thing.ignored == ignored]
            difference = _differ(wanted, found)
            if difference:
                return f"{place}: {difference}"
        samples.append(sample)
    return _compare_metric(content, file, samples) if test_mode else None


def _differ(wanted: list[oracle.Thing], found: object) -> str | None:
    if len(found.labels) != len(wanted):
        return f"{len(found.labels)} objects instead of {len(wanted)}"
    boxes = np.array([thing.box for thing in wanted]).reshape(-1, 4)
    if not np.allclose(found.bboxes.tensor.numpy(), boxes, rtol=1e-6, atol=1e-4):
        return f"boxes {found.bboxes.tensor.tolist()} instead of {boxes.tolist()}"
    if found.labels.tolist() != [thing.label for thing in wanted]:
        return f"labels {found.labels.tolist()}"
    for thing, mask in zip(wanted, found.masks.masks, strict=True):
        if not thing.mask.agrees(mask):
            return f"a mask of {int(mask.sum())} pixels instead of {int(thing.mask.inside.sum())}"
    return None


def _compare_metric(content: dict, file: Path, samples: list) -> str | None:
    """COCO's metric must find the ground truth of the rules, and get to its end."""
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(ann_file=str(file), metric=["bbox", "segm"])
    metric.dataset_meta = dict(classes=oracle.CLASSES)
    truth = metric._coco_api
    for number, mask in oracle.counted_masks(content).items():
        if not mask.agrees(truth.annToMask(truth.anns[number])):
            return f"annotation {number} has another mask in the metric"
    predictions = [
        dict(
            img_id=sample.img_id,
            ori_shape=sample.ori_shape,
            pred_instances=dict(
                bboxes=sample.gt_instances.bboxes.tensor,
                labels=sample.gt_instances.labels,
                scores=torch.ones(len(sample.gt_instances.labels)),
                masks=torch.from_numpy(sample.gt_instances.masks.masks.astype(bool)),
            ),
        )
        for sample in samples
    ]
    metric.process({}, predictions)
    scores = metric.evaluate(len(samples))
    counted = [a for a in content["annotations"] if a["category_id"] in oracle.labels_of(content)]
    if truth.get_ann_ids(cat_ids=metric.cat_ids) != [a["id"] for a in counted]:
        return "the metric counts other annotations"
    wrong = {name: score for name, score in scores.items() if not -1 <= score <= 1}
    return f"scores {wrong}" if wrong else None


if __name__ == "__main__":
    main()
