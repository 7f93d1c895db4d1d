"""What a classifier confuses: numbers, and the page that shows them."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from PIL import Image
from processes import run
from tiny_runs import CLASSES, make_folders

from halvit_mm.errors import UserError
from halvit_mm.visualization import draw_predictions
from halvit_mm.visualization.mistakes import Classified, most_confused, read_classified, shares
from halvit_mm.visualization.mistakes_page import (
    _COLUMNS,
    _GAP,
    _MARGIN,
    _TILE,
    WIDTH,
    Mistake,
    _image,
    compose,
)


def classified(truth: list[int], guess: list[int], classes: int, **options) -> Classified:
    return Classified(
        truth=np.array(truth),
        guess=np.array(guess),
        confidence=np.array(options.get("confidence", [0.5] * len(truth))),
        num_classes=classes,
    )


def random_case(classes: int, images: int) -> Classified:
    rng = np.random.default_rng(0)
    truth, other = rng.integers(0, classes, (2, images))
    guess = np.where(rng.random(images) < 0.6, truth, other)
    return classified(truth, guess, classes, confidence=rng.random(images))


class TestNumbers:
    def test_confusion_counts_every_image(self):
        case = random_case(7, 500)
        expected = np.zeros((7, 7), dtype=int)
        for truth, guess in zip(case.truth, case.guess, strict=True):
            expected[truth, guess] += 1
        assert (case.confusion() == expected).all()
        assert case.right.sum() == np.trace(expected)

    def test_most_confused_pairs(self):
        confusion = np.array([[5, 2, 3], [0, 9, 1], [4, 0, 0]])
        found = [(p.truth, p.guess, p.count) for p in most_confused(confusion, 3)]
        assert found == [(2, 0, 4), (0, 2, 3), (0, 1, 2)]
        assert [p.share for p in most_confused(confusion, 3)] == [1, 0.3, 0.2]
        # The fifth pair of cells is empty.
        assert len(most_confused(confusion, 5)) == 4
        assert most_confused(np.diag([3, 4]), 5) == []

    def test_worst_mistakes_come_by_confidence(self):
        case = classified([0, 0, 1, 1, 0], [1, 0, 0, 1, 1], 2, confidence=[0.6, 1, 0.9, 0.8, 0.6])
        assert case.worst(2).tolist() == [2, 0]
        assert case.worst(99).tolist() == [2, 0, 4]

    def test_shares_are_of_the_true_class(self):
        # The third class has no image.
        part = shares(np.array([[3, 1, 0], [0, 2, 2], [0, 0, 0]]))
        assert part.tolist() == [[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 0]]


class TestReading:
    def sample(self, truth: int, scores: list[float]) -> dict:
        """As mmpretrain's classifiers are dumped."""
        scores = torch.tensor(scores)
        label = scores.argmax(keepdim=True)
        return dict(pred_score=scores, pred_label=label, gt_label=torch.tensor([truth]))

    def test_confidence_is_that_of_the_prediction(self):
        samples = [self.sample(0, [0.25, 0.5, 0.25]), self.sample(2, [0.125, 0.125, 0.75])]
        case = read_classified(samples, "p.pkl", num_classes=3)
        assert case.truth.tolist() == [0, 2]
        assert case.guess.tolist() == [1, 2]
        assert case.confidence.tolist() == [0.5, 0.75]

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (dict(gt_label=None), "1 of the 2 predictions have no gt_label"),
            (dict(pred_label=None), "1 of the 2 predictions have no pred_label"),
            (
                dict(pred_score=torch.ones(4)),
                "the model has 3 or 4 classes, but the test set has 3",
            ),
            (dict(gt_label=torch.tensor([0, 1])), "several classes or none"),
            (dict(gt_label=torch.tensor([], dtype=int)), "several classes or none"),
            (dict(gt_label=torch.tensor([3])), "a label lies outside of the 3 classes"),
            (dict(pred_label=torch.tensor([-1])), "a label lies outside of the 3 classes"),
        ],
    )
    def test_what_does_not_fit(self, change, match):
        samples = [self.sample(0, [0.25, 0.5, 0.25]), self.sample(1, [1.0, 0, 0])]
        samples[1] = {k: v for k, v in (samples[1] | change).items() if v is not None}
        with pytest.raises(UserError, match=match) as caught:
            read_classified(samples, "p.pkl", num_classes=3)
        assert str(caught.value).startswith("p.pkl: ")
        assert "\n" not in str(caught.value)


class Case:
    """A test set of eight images in two classes and predictions of it, all right."""

    def __init__(self, folder: Path) -> None:
        self.images = make_folders(folder / "data" / "val")
        dataset = dict(type="LabelledImages", data_root=str(folder / "data"), split="val")
        loader = dict(batch_size=4, dataset=dataset)
        self.cfg = Config(dict(default_scope="mmpretrain", test_dataloader=loader))
        self.pkl, self.out = folder / "predictions.pkl", folder / "page.png"
        self.samples = [
            dict(
                pred_score=torch.tensor([1.0 - label, label]),
                pred_label=torch.tensor([label]),
                gt_label=torch.tensor([label]),
            )
            for label in (0, 0, 0, 0, 1, 1, 1, 1)
        ]

    def misjudge(self, number: int, confidence: float) -> None:
        guess = 1 - int(self.samples[number]["gt_label"])
        scores = torch.full((2,), 1 - confidence)
        scores[guess] = confidence
        self.samples[number] |= dict(pred_score=scores, pred_label=torch.tensor([guess]))

    def file(self, number: int) -> Path:
        name = CLASSES[number // 4]
        return self.images / name / f"{name}_{number % 4}.png"

    def draw(self, **options) -> Image.Image:
        self.pkl.write_bytes(pickle.dumps(self.samples))
        draw_predictions(self.cfg, self.pkl, self.out, **options)
        return Image.open(self.out).convert("RGB")

    def error(self, match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            self.draw()
        assert "\n" not in str(caught.value)
        assert not self.out.exists()


@pytest.fixture
def case(tmp_path) -> Case:
    return Case(tmp_path)


def tile(page: Image.Image, number: int) -> np.ndarray:
    """The picture of a mistake in the page's last row."""
    x, y = _MARGIN + number * (_TILE + _GAP), page.height - _MARGIN - (_TILE + 82)
    return np.array(page.crop((x, y, x + _TILE, y + _TILE)))


def enlarged(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB").resize((_TILE, _TILE), Image.Resampling.BICUBIC))


def test_the_images_of_the_worst_mistakes_are_shown(case):
    for number, confidence in ((1, 0.6), (6, 0.9), (3, 0.75)):
        case.misjudge(number, confidence)
    page = case.draw(num=2)
    assert page.width == WIDTH
    for place, number in enumerate((6, 3)):
        assert (tile(page, place) == enlarged(Image.open(case.file(number)))).all()
    assert (tile(page, 2) == 255).all()


def test_rows_of_six_images(case):
    heights = []
    for count in (1, 6, 7):
        for number in range(count):
            case.misjudge(number, 0.9)
        heights.append(case.draw().height)
    assert heights[0] == heights[1] == heights[2] - (_TILE + 82)
    assert _COLUMNS == 6


def test_a_perfect_classifier_has_no_mistakes_to_show(case):
    right = case.draw()
    case.misjudge(0, 0.9)
    assert right.height < case.draw().height - _TILE / 2


def test_data_sets_of_mmpretrain(case, tmp_path, monkeypatch):
    case.misjudge(6, 0.9)
    image = Image.open(case.file(6)).convert("RGB")
    folders = dict(type="CustomDataset", data_root=str(case.images), pipeline=[])
    case.cfg.test_dataloader.dataset = folders
    assert (tile(case.draw(), 0) == enlarged(image)).all()

    pixels = np.stack([np.array(Image.open(case.file(i)).convert("RGB")) for i in range(8)])
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batch = dict(data=pixels.transpose(0, 3, 1, 2).reshape(8, -1), labels=[0] * 4 + [1] * 4)
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    monkeypatch.setattr("mmpretrain.datasets.cifar.CIFAR10._check_integrity", lambda _: True)
    case.cfg.test_dataloader.dataset = dict(
        type="CIFAR10", data_root=str(folder.parent), split="test", pipeline=[],
        metainfo=dict(classes=CLASSES),
    )  # fmt: skip
    assert (tile(case.draw(), 0) == enlarged(image)).all()


def test_reads_what_mmengine_dumps(case):
    from mmpretrain.structures import DataSample

    case.misjudge(2, 0.75)
    case.draw()
    expected = case.out.read_bytes()
    case.out.unlink()
    metric = DumpResults(out_file_path=str(case.pkl))
    for sample in case.samples:
        data_sample = DataSample(metainfo=dict(img_path="somewhere.png"))
        data_sample.set_gt_label(sample["gt_label"]).set_pred_label(sample["pred_label"])
        data_sample.set_pred_score(sample["pred_score"])
        metric.process({}, [data_sample.to_dict()])
    metric.evaluate(size=8)
    draw_predictions(case.cfg, case.pkl, case.out)
    assert case.out.read_bytes() == expected


def test_predictions_of_another_data_set(case):
    case.samples.append(case.samples[0])
    case.error("predictions of another data set, it has 9 images and the test set 8")
    case.samples = case.samples[::-1][1:]
    case.error("predictions of another data set, image 0 is of class 1 in it and of class 0 in")


def test_predictions_of_a_model_with_other_classes(case):
    for sample in case.samples:
        sample["pred_score"] = torch.ones(3) / 3
    case.error("the model has 3 classes, but the test set has 2; give the config that was tested")


def test_a_test_set_without_labels(case):
    for sample in case.samples:
        del sample["gt_label"]
    case.error("8 of the 8 predictions have no gt_label")


def test_a_damaged_image(case):
    case.misjudge(6, 0.9)
    case.file(6).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"(?s)1 of the 8 images .* cannot be read.*light_2\.png"):
        case.draw()


def test_an_image_that_went_away():
    with pytest.raises(UserError, match=r"gone\.png: the image is missing or damaged"):
        _image(None, dict(img_path="gone.png"))


def test_a_test_set_without_names_of_classes(case):
    lines = [f"{case.file(i).relative_to(case.images)} {i // 4}" for i in range(8)]
    (case.images / "list.txt").write_text("\n".join(lines))
    case.cfg.test_dataloader.dataset = dict(
        type="CustomDataset", data_root=str(case.images), ann_file="list.txt", pipeline=[]
    )
    case.error(r"does not name its classes; set test_dataloader\.dataset\.metainfo\.classes")


def test_a_config_without_a_test_set(case):
    case.cfg = Config(dict(model=None), cfg_text="as in", filename="c.py")
    case.error(r"c\.py: there is no test_dataloader")


@pytest.mark.parametrize("classes", [2, 10, 40, 41, 100, 1000])
def test_matrices_of_any_size_stay_in_their_place(classes):
    """With long names, nothing reaches into the margins or between matrix and pairs."""
    names = [f"{i} is the number of a class with a long name" for i in range(classes)]
    page = np.array(compose(random_case(classes, 4000), names, []).convert("L"))
    upper = page[95 : page.shape[0] - 150]
    assert (upper[:, : _MARGIN - 1] == 255).all()
    assert (upper[:, -_MARGIN + 1 :] == 255).all()
    # The bars begin where the column of pairs does.
    bar = np.array([213, 94, 0])
    coloured = np.array(compose(random_case(classes, 4000), names, []))
    left = np.flatnonzero((coloured == bar).all(axis=-1).any(axis=0))[0]
    assert (upper[:, left - 20 : left] == 255).all()
    assert left < 1100


def test_one_strong_confusion_among_1000_classes_is_seen():
    truth = np.repeat(np.arange(1000), 2)
    guess = truth.copy()
    clean = np.array(compose(classified(truth, guess, 1000), ["x"] * 1000, []))[:, :800]
    guess[2 * 700 : 2 * 700 + 2] = 100
    page = np.array(compose(classified(truth, guess, 1000), ["x"] * 1000, []))[:, :800]
    rows, _ = np.nonzero((page != clean).any(axis=-1) & (page.min(axis=-1) < 100))
    inside = rows > 150  # below the title, which counts mistakes
    # A class is two thirds of a pixel, in blocks of three classes.
    assert len(rows[inside]) == 4
    assert abs((rows[inside].mean() - 158) / (2 / 3) - 700) < 3


def test_tall_and_wide_images_keep_their_shape():
    images = [Image.new("RGB", size, "red") for size in ((100, 50), (500, 1000))]
    mistakes = [
        Mistake(image=image, source="a/b.png", truth="x", guess="y", confidence=0.5)
        for image in images
    ]
    page = compose(classified([0, 0], [1, 1], 2), ["x", "y"], mistakes)
    red = [(tile(page, i) == (255, 0, 0)).all(axis=-1) for i in (0, 1)]
    assert abs(red[0].any(axis=1).sum() - _TILE / 2) <= 1 and red[0].any(axis=0).sum() == _TILE
    assert abs(red[1].any(axis=0).sum() - _TILE / 2) <= 1 and red[1].any(axis=1).sum() == _TILE


def test_the_command(case, tmp_path, root):
    case.misjudge(6, 0.9)
    case.pkl.write_bytes(pickle.dumps(case.samples))
    config = tmp_path / "config.py"
    config.write_text(case.cfg.pretty_text)
    command = [sys.executable, root / "tools/draw_predictions.py", config, case.pkl, case.out]
    status, output, errors = run(command, tmp_path)
    assert status == 0, errors
    assert str(case.out) in output
    page = Image.open(case.out).convert("RGB")
    assert (tile(page, 0) == enlarged(Image.open(case.file(6)))).all()
