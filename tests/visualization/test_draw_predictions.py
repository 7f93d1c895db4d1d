"""Pictures of predictions: from annotation file and pickle to PNG, and what can go wrong."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from processes import run
from pycocotools import mask as rle
from pycocotools.coco import COCO
from tiny_runs import make_coco

from halvit_mm.errors import UserError
from halvit_mm.visualization import draw_predictions
from halvit_mm.visualization.colours import class_colour
from halvit_mm.visualization.grid import TILE

MARGIN, GAP = 20, 8


class Case:
    """A data set, a config that names it, predictions of it, and where to draw them."""

    def __init__(self, folder: Path, data: Path, ann_file: str, images: str, **dataset) -> None:
        self.coco = COCO(str(data / ann_file))
        self.cfg = Config(
            dict(
                test_dataloader=dict(
                    dataset=dict(
                        type="CocoDataset",
                        data_root=str(data),
                        ann_file=ann_file,
                        data_prefix=dict(img=images),
                        **dataset,
                    )
                )
            )
        )
        self.pkl, self.out = folder / "predictions.pkl", folder / "out" / "picture.png"

    def write(self, samples: object) -> None:
        self.pkl.write_bytes(pickle.dumps(samples))

    def truth_as_predictions(self, *, masks: bool = True, score: float = 0.9) -> list[dict]:
        """What a perfect detector's dump looks like; crowds are not for it to find."""
        categories = self.coco.getCatIds()
        samples = []
        for image_id, image in self.coco.imgs.items():
            annotations = [a for a in self.coco.imgToAnns[image_id] if not a["iscrowd"]]
            boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32)
            boxes = boxes.reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            found = dict(
                bboxes=boxes,
                scores=torch.full((len(boxes),), score),
                labels=torch.tensor([categories.index(a["category_id"]) for a in annotations]),
            )
            if masks:
                found["masks"] = [self.coco.annToRLE(a) for a in annotations]
            samples.append(
                dict(
                    img_id=image_id,
                    img_path="elsewhere/" + image["file_name"],
                    ori_shape=(image["height"], image["width"]),
                    pred_instances=found,
                )
            )
        return samples

    def empty_predictions(self) -> list[dict]:
        samples = self.truth_as_predictions()
        for sample in samples:
            sample["pred_instances"] = dict(
                bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0), masks=[]
            )
        return samples

    def draw(self, samples: object, **options) -> Image.Image:
        self.write(samples)
        draw_predictions(self.cfg, self.pkl, self.out, **options)
        return Image.open(self.out)

    def error(self, match: str, **options) -> None:
        with pytest.raises(UserError, match=match) as caught:
            draw_predictions(self.cfg, self.pkl, self.out, **options)
        assert "\n" not in str(caught.value)


@pytest.fixture
def tiny(tmp_path) -> Case:
    return Case(tmp_path, make_coco(tmp_path / "data", images=5), "annotations.json", "images")


@pytest.fixture(params=["dsb2018_nuclei8", "coco8_320"])
def real(request, test_data, tmp_path) -> Case:
    folder = test_data / "tiny" / request.param
    return Case(tmp_path, folder, "annotations/instances_val.json", "val")


def sides(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Left and right half of a grid with one column, each (H, TILE, 3)."""
    pixels = np.array(picture.convert("RGB"), dtype=int)
    right = MARGIN + TILE + GAP
    return pixels[:, MARGIN : MARGIN + TILE], pixels[:, right : right + TILE]


def tile(side: np.ndarray, row: int = 0) -> np.ndarray:
    """A square image of one side without the header row above it."""
    top = 44 + row * (TILE + 32)
    return side[top : top + TILE]


def test_truth_and_equal_predictions_look_alike_but_for_the_scores(tiny):
    left, right = sides(tiny.draw(tiny.truth_as_predictions(), num=1))
    left, right = tile(left), tile(right)
    image = tiny.coco.imgs[0]
    with Image.open(tiny.out.parents[1] / "data/images" / image["file_name"]) as file:
        plain = np.array(file.resize((TILE, TILE), Image.Resampling.BICUBIC), dtype=int)
    for label, annotation in enumerate(tiny.coco.imgToAnns[0]):
        x, y, width, height = (TILE / image["width"] * edge for edge in annotation["bbox"])
        row, column = round(y + 0.75 * height), round(x + width / 2)
        assert (left[row, column] == right[row, column]).all()
        expected = 0.55 * plain[row, column] + 0.45 * np.array(class_colour(label))
        assert np.abs(left[row, column] - expected).max() <= 3
    assert (left != right).any()  # the scores
    assert (left != right).any(axis=-1).mean() < 0.05


def test_without_predictions_the_right_side_is_the_plain_image(tiny):
    left, right = sides(tiny.draw(tiny.empty_predictions(), num=1))
    with Image.open(tiny.out.parents[1] / "data/images/0.png") as file:
        plain = np.array(file.resize((TILE, TILE), Image.Resampling.BICUBIC), dtype=int)
    assert (tile(right) == plain).all()
    differs = (tile(left) != tile(right)).any(axis=-1)
    covered = sum(annotation["area"] for annotation in tiny.coco.imgToAnns[0]) / 64**2
    assert differs.mean() > 0.8 * covered


def test_predictions_below_the_threshold_are_left_out(tiny):
    def picture(samples: list[dict]) -> Image.Image:
        return tiny.draw(samples, num=1, score_thr=0.25).convert("RGB")

    shown = picture(tiny.truth_as_predictions(score=0.25))
    hidden = picture(tiny.truth_as_predictions(score=0.24))
    empty = picture(tiny.empty_predictions())
    assert hidden.tobytes() == empty.tobytes() != shown.tobytes()


def test_models_without_masks_are_compared_by_boxes_on_both_sides(tiny):
    left, right = sides(tiny.draw(tiny.truth_as_predictions(masks=False), num=1))
    left, right = tile(left), tile(right)
    scale = TILE / 64
    for label, annotation in enumerate(tiny.coco.imgToAnns[0]):
        x, y, width, height = (scale * edge for edge in annotation["bbox"])
        edge = round(y + height) - 1, round(x + width / 2)
        assert (left[edge] == class_colour(label)).all()
        assert (right[edge] == class_colour(label)).all()
        # Grey as it was made, so no mask covers it.
        assert np.ptp(left[round(y + 0.75 * height), round(x + width / 2)]) == 0


def test_masks_as_polygons_and_plain_run_lengths_draw_like_compressed_ones(tiny):
    compressed = tiny.truth_as_predictions()
    polygons, plain = tiny.truth_as_predictions(), tiny.truth_as_predictions()
    for image_id in tiny.coco.imgs:
        annotations = tiny.coco.imgToAnns[image_id]
        polygons[image_id]["pred_instances"]["masks"] = [a["segmentation"] for a in annotations]
        plain[image_id]["pred_instances"]["masks"] = [
            dict(size=[64, 64], counts=run_lengths(tiny.coco.annToMask(a))) for a in annotations
        ]
    expected = tiny.draw(compressed, num=2).convert("RGB").tobytes()
    assert tiny.draw(polygons, num=2).convert("RGB").tobytes() == expected
    assert tiny.draw(plain, num=2).convert("RGB").tobytes() == expected


def run_lengths(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    return np.diff([0, *changes, flat.size]).tolist()


def test_images_are_chosen_evenly(tmp_path):
    data = make_coco(tmp_path / "data", images=7)
    for i in range(7):
        Image.new("RGB", (64, 64), (30 * i,) * 3).save(data / "images" / f"{i}.png")
    case = Case(tmp_path, data, "annotations.json", "images")
    for num, chosen in ((1, [0]), (2, [0, 6]), (3, [0, 3, 6]), (4, [0, 2, 4, 6])):
        picture = case.draw(case.empty_predictions(), num=num)
        _, right = sides(picture)
        assert [tile(right, row)[200, 200, 0] // 30 for row in range(num)] == chosen
    # More than there are: each once, in 2 columns and 4 rows.
    assert case.draw(case.empty_predictions(), num=100).width > 4 * TILE


def test_labels_count_the_classes_of_the_config_in_the_order_of_the_file(tmp_path):
    """As mmdet does it: order within `classes` means nothing."""
    data = make_coco(tmp_path / "data")
    case = Case(
        tmp_path, data, "annotations.json", "images", metainfo=dict(classes=("light", "dark"))
    )
    both = case.draw(case.truth_as_predictions(), num=1).convert("RGB").tobytes()
    default = Case(tmp_path, data, "annotations.json", "images")
    assert default.draw(default.truth_as_predictions(), num=1).convert("RGB").tobytes() == both

    one = Case(tmp_path, data, "annotations.json", "images", metainfo=dict(classes=("light",)))
    left, _ = sides(one.draw(one.empty_predictions(), num=1))
    edges = [(left == class_colour(label)).all(axis=-1).sum() for label in (0, 1)]
    assert edges[0] > 100  # the light square, as the one class there is
    assert edges[1] == 0


def test_wrapped_data_sets_are_found(tiny):
    expected = tiny.draw(tiny.truth_as_predictions(), num=1).convert("RGB").tobytes()
    inner = tiny.cfg.test_dataloader.dataset
    tiny.cfg.test_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=inner)
    assert tiny.draw(tiny.truth_as_predictions(), num=1).convert("RGB").tobytes() == expected


def test_reads_what_mmdet_dumps(tiny):
    from mmdet.evaluation import DumpDetResults
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    metric = DumpDetResults(out_file_path=str(tiny.pkl))
    for image_id, sample in enumerate(tiny.truth_as_predictions()):
        found = sample.pop("pred_instances")
        found["masks"] = torch.tensor(rle.decode(found["masks"])).permute(2, 0, 1).bool()
        data_sample = DetDataSample(metainfo=sample, pred_instances=InstanceData(**found))
        assert data_sample.img_id == image_id
        metric.process({}, [data_sample.to_dict()])
    metric.evaluate(size=len(tiny.coco.imgs))
    draw_predictions(tiny.cfg, tiny.pkl, tiny.out)
    dumped = tiny.out.read_bytes()
    tiny.draw(tiny.truth_as_predictions())
    assert tiny.out.read_bytes() == dumped


def test_real_images(real):
    samples = real.truth_as_predictions()
    picture = real.draw(samples, num=4)
    widest = max(image["width"] / image["height"] for image in real.coco.imgs.values())
    assert picture.format == "PNG"
    assert picture.width == 2 * TILE + GAP + 2 * MARGIN
    assert picture.height > 4 * TILE / max(1, widest)
    left, right = sides(picture)
    # Only scores, and crowds where there are some, make a difference.
    assert 0 < (left != right).any(axis=-1).mean() < 0.2

    left, right = sides(real.draw(real.empty_predictions(), num=4))
    assert (left != right).any(axis=-1).mean() > 0.05


def test_missing_predictions(tiny):
    tiny.error(r"predictions\.pkl: cannot read .*No such file.*test\.py --out")


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([{}])[:-3], b"\x80\x04K"])
def test_damaged_predictions(tiny, content):
    tiny.pkl.write_bytes(content)
    tiny.error(r"predictions\.pkl: this is no whole pickle")


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (dict(a=1), "not a list of dicts"),
        ([1, 2], "not a list of dicts"),
        ([], "no predictions in it"),
        ([dict(img_id=1, pred_label=3)], "neither boxes nor classes in it"),
    ],
)
def test_predictions_of_another_kind(tiny, samples, match):
    tiny.write(samples)
    tiny.error(rf"predictions\.pkl: .*{match}")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(img_id=99), "has no image with id 99"),
        (dict(ori_shape=(64, 63)), r"image 3 is not 3\.png"),
        (dict(img_path="data/other.png"), r"image 3 is not 3\.png"),
    ],
)
def test_predictions_of_another_data_set(tiny, change, match):
    samples = tiny.truth_as_predictions()
    samples[3] |= change
    tiny.write(samples)
    tiny.error(rf"predictions of another data set, .*{match}")
    assert not tiny.out.exists()


def test_predictions_of_a_model_with_more_classes(tiny):
    samples = tiny.truth_as_predictions()
    samples[3]["pred_instances"]["labels"][-1] = 2
    tiny.write(samples)
    tiny.error(r"knows a class number 2, but the test set has 2 classes")


@pytest.mark.parametrize("dataloader", [None, dict(dataset=dict(type="CIFAR10"))])
def test_config_without_a_test_set(tiny, dataloader):
    tiny.write(tiny.truth_as_predictions())
    tiny.cfg = Config(dict(test_dataloader=dataloader), cfg_text="as in", filename="c.py")
    tiny.error(r"c\.py: test_dataloader names no annotation file")


def test_missing_annotations(tiny):
    tiny.write(tiny.truth_as_predictions())
    tiny.cfg.test_dataloader.dataset.ann_file = "nowhere.json"
    tiny.error(r"nowhere\.json: there is no such annotation file; check ann_file and data_root")


@pytest.mark.parametrize("content", ["", "[]", '{"images": [{"name": 1}]}'])
def test_damaged_annotations(tiny, content):
    tiny.write(tiny.truth_as_predictions())
    Path(tiny.cfg.test_dataloader.dataset.data_root, "annotations.json").write_text(content)
    tiny.error(r"annotations\.json: no annotations in COCO's format")


def test_missing_and_truncated_images(tiny):
    tiny.write(tiny.truth_as_predictions())
    image = Path(tiny.cfg.test_dataloader.dataset.data_root, "images", "4.png")
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    tiny.error(r"4\.png: the image is damaged")
    image.unlink()
    tiny.error(r"4\.png: .*annotations\.json names this image, but it is not there")
    draw_predictions(tiny.cfg, tiny.pkl, tiny.out, num=1)  # 4.png is not needed for this


def test_nothing_to_draw(tiny):
    tiny.write(tiny.truth_as_predictions())
    tiny.error("--num 0: there is nothing to draw", num=0)


@pytest.mark.parametrize(
    ("out", "match"),
    [
        ("picture.jpg", "a name that ends in .png"),
        ("folder.png", "there is a folder of this name"),
        ("file/picture.png", "cannot write there"),
    ],
)
def test_unwritable_picture(tiny, tmp_path, out, match):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    tiny.out = tmp_path / out
    # Found out before anything is read: there are no predictions yet.
    tiny.error(match)


def test_a_failure_leaves_an_earlier_picture_as_it_was(tiny):
    tiny.draw(tiny.truth_as_predictions())
    before = tiny.out.read_bytes()
    tiny.pkl.unlink()
    tiny.error("cannot read")
    assert tiny.out.read_bytes() == before
    assert list(tiny.out.parent.iterdir()) == [tiny.out]


def test_the_command(tiny, tmp_path, root):
    tiny.write(tiny.truth_as_predictions())
    config = tmp_path / "config.py"
    dataset = tiny.cfg.test_dataloader.dataset
    options = f"test_dataloader.dataset.data_root={dataset.pop('data_root')}"
    config.write_text(f"test_dataloader = dict(dataset={dataset.to_dict()})")
    command = [sys.executable, root / "tools/draw_predictions.py", config, tiny.pkl, tiny.out]
    status, output, errors = run(
        [*command, "--num", "3", "--score-thr", "0.3", "--cfg-options", options], tmp_path
    )
    assert status == 0, errors
    assert str(tiny.out) in output
    with Image.open(tiny.out) as picture:
        assert picture.height > 3 * TILE
