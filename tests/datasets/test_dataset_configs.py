"""The dataset configs: mmdet loads the sets through them and counts every detection."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from pycocotools import mask as coco_mask

from halvit_mm.datasets.check import check_dataset
from halvit_mm.datasets.coco_files import mask_annotation, write_instances
from halvit_mm.datasets.digits import make_digits


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    import mmdet.datasets
    import mmdet.evaluation  # noqa: F401

    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data") / "digits", num_train=12, num_val=8)


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in the layout of the nuclei: in each split a crowded tile and a sparse one."""
    from PIL import Image

    root = tmp_path_factory.mktemp("data") / "nuclei"
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for image_id, (count, height, width) in enumerate([(320, 256, 300), (5, 260, 232)], 1):
            name = f"{image_id}.png"
            picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            corners = [(y, x) for y in range(4, height - 8, 12) for x in range(4, width - 8, 12)]
            for y, x in corners[:count]:
                mask = np.zeros((height, width), bool)
                mask[y : y + rng.integers(4, 8), x : x + rng.integers(4, 8)] = True
                picture[mask] += 150
                annotations.append(
                    {"image_id": image_id, "category_id": 1, **mask_annotation(mask)}
                )
            Image.fromarray(picture).save(root / split / name)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        assert len(annotations) == 325
        write_instances(
            root / "annotations" / f"instances_{split}.json",
            info={},
            categories=["nucleus"],
            images=images,
            annotations=annotations,
        )
    return root


def load_config(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, data_root: Path | None
) -> Config:
    variable = f"HALVIT_{name.upper()}_ROOT"
    if data_root is None:
        monkeypatch.delenv(variable, raising=False)
    else:
        monkeypatch.setenv(variable, str(data_root))
    return Config.fromfile(root / "configs" / "_base_" / "datasets" / f"{name}_instance.py")


def ground_truth_scores(cfg: Config) -> dict[str, float]:
    """What the config's evaluator says to the ground truth, shuffled, as predictions."""
    from mmdet.registry import DATASETS, METRICS

    dataset_cfg = copy.deepcopy(cfg.val_dataloader.dataset)
    dataset_cfg.pipeline = []
    dataset = DATASETS.build(dataset_cfg)
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    generator = torch.Generator().manual_seed(0)
    for i in range(len(dataset)):
        sample = dataset[i]
        found = sample["instances"]
        predictions = dict(
            bboxes=torch.tensor([a["bbox"] for a in found]),
            labels=torch.tensor([a["bbox_label"] for a in found]),
            scores=torch.rand(len(found), generator=generator),
            masks=torch.tensor(np.stack([coco_mask.decode(a["mask"]) for a in found])).bool(),
        )
        shape = (sample["height"], sample["width"])
        metric.process(
            {}, [dict(img_id=sample["img_id"], ori_shape=shape, pred_instances=predictions)]
        )
    return metric.evaluate(len(dataset))


@pytest.mark.parametrize("name", ["digits", "nuclei"])
def test_ground_truth_scores_one(
    root: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, name: str
) -> None:
    cfg = load_config(root, monkeypatch, name, request.getfixturevalue(name))
    assert cfg.test_evaluator == cfg.val_evaluator and cfg.test_dataloader == cfg.val_dataloader
    scores = ground_truth_scores(cfg)
    for kind in ("bbox", "segm"):
        for item in ("mAP", "mAP_50", "mAP_75", "mAP_s"):
            assert scores[f"coco/{kind}_{item}"] >= 0.999, (kind, item)


def test_crowded_real_tiles_count(
    root: Path, monkeypatch: pytest.MonkeyPatch, test_data: Path, tmp_path: Path
) -> None:
    """The real validation tiles with more than 100 nuclei: none of them is passed over."""
    source = test_data / "nuclei"
    content = json.loads((source / "annotations" / "instances_val.json").read_text())
    numbers = [a["image_id"] for a in content["annotations"]]
    crowded = {i for i in set(numbers) if numbers.count(i) > 100}
    assert len(crowded) == 2
    content["images"] = [i for i in content["images"] if i["id"] in crowded]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in crowded]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (tmp_path / "val").symlink_to(source / "val")
    scores = ground_truth_scores(load_config(root, monkeypatch, "nuclei", tmp_path))
    assert scores["coco/segm_mAP"] >= 0.999 and scores["coco/bbox_mAP"] >= 0.999


@pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("nuclei", 1)])
def test_pipelines(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    name: str,
    classes: int,
) -> None:
    """Every dataloader's set goes through its pipeline; boxes fit the masks afterwards too."""
    from mmdet.registry import DATASETS

    cfg = load_config(root, monkeypatch, name, request.getfixturevalue(name))
    for split in ("train", "val", "test"):
        dataset = DATASETS.build(cfg[f"{split}_dataloader"].dataset)
        assert len(dataset.metainfo["classes"]) == classes
        for i in range(len(dataset)):
            packed = dataset[i]
            instances = packed["data_samples"].gt_instances
            height, width = packed["inputs"].shape[1:]
            if split != "train":  # evaluation compares with the annotations at their own size
                assert "scale_factor" in packed["data_samples"].metainfo
                height, width = packed["data_samples"].ori_shape
            assert len(instances) >= 1 and instances.labels.max() < classes
            masks = instances.masks.masks
            assert masks.shape == (len(instances), height, width)
            for mask, box in zip(masks, instances.bboxes.tensor.numpy(), strict=True):
                rows, columns = np.nonzero(mask)
                tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                # Digits stay as they are; resizing rounds masks to whole pixels.
                assert np.abs(box - tight).max() <= (0 if name == "digits" else 3)
    assert max(packed["inputs"].shape[1:]) == (128 if name == "digits" else 512)


def test_nuclei_are_flipped_and_digits_are_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flips(name: str) -> list[dict]:
        cfg = load_config(root, monkeypatch, name, None)
        return [t for t in cfg.train_dataloader.dataset.pipeline if "Flip" in t.type]

    assert flips("digits") == []
    assert {"horizontal", "vertical"} <= set(flips("nuclei")[0].direction)


@pytest.mark.parametrize("name", ["digits", "nuclei"])
def test_root_is_set_in_one_place(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """The environment variable reaches every path, also through a config that inherits."""
    heir = tmp_path / "heir.py"
    heir.write_text(
        f"_base_ = {str(root / 'configs' / '_base_' / 'datasets' / f'{name}_instance.py')!r}\n"
        "place = {{_base_.data_root}}\n"
    )
    for data_root in (None, tmp_path / "elsewhere"):
        load_config(root, monkeypatch, name, data_root)
        cfg = Config.fromfile(heir)
        expected = str(data_root or f"data/{name}")
        assert cfg.data_root == cfg.place == expected
        for split in ("train", "val", "test"):
            assert cfg[f"{split}_dataloader"].dataset.data_root == expected
        for split in ("val", "test"):
            assert cfg[f"{split}_evaluator"].ann_file.startswith(f"{expected}/annotations/")


@pytest.mark.parametrize("name", ["digits", "nuclei"])
def test_configs_pass_the_check(
    root: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, name: str
) -> None:
    cfg = load_config(root, monkeypatch, name, request.getfixturevalue(name))
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert isinstance(dataset, ConfigDict)
        classes = 10 if name == "digits" else 1
        check_dataset(dataset, option=f"{split}_dataloader.dataset", num_classes=classes)
