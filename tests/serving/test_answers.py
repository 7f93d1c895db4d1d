"""What the page shows next, without a browser."""

from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from halvit_mm.errors import UserError
from halvit_mm.inference.results import Classification, Detections
from halvit_mm.serving.answers import Answers
from halvit_mm.serving.models import Inside, ServedModel
from halvit_mm.serving.uploads import Example, Limits

CLASSES = ("cat", "dog")


class Finder:
    """A stand-in for a detector: two squares in every picture, of scores 0.9 and 0.3."""

    classes = CLASSES

    def predict(self, images):
        return [
            Detections(
                boxes=np.array([[2, 2, 12, 12], [20, 20, 28, 28]], np.float32),
                scores=np.array([0.9, 0.3], np.float32),
                labels=np.array([0, 1]),
                masks=None,
                size=image.shape[:2],
                classes=CLASSES,
            )
            for image in images
        ]


class Namer:
    """A stand-in for a classifier: all is a dog. Refuses pictures of one pixel."""

    classes = CLASSES

    def predict(self, images):
        if images[0].shape[0] == 1:
            raise UserError("too small a picture")
        scores = np.array([0.25, 0.75], np.float32)
        return [Classification(scores, image.shape[:2], CLASSES) for image in images]


def refuse(image):
    raise UserError("nothing to see")


@pytest.fixture
def picture(tmp_path):
    """What Gradio says of a picture of 40 × 30 pixels."""
    Image.new("RGB", (40, 30), (50, 60, 70)).save(tmp_path / "stored.png")
    return {"path": str(tmp_path / "stored.png"), "orig_name": "mine.png"}


@pytest.fixture
def answers(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "example.png")
    examples = [
        Example(tmp_path / "gone.png", np.zeros((8, 8, 3), np.uint8)),
        Example(tmp_path / "example.png", np.zeros((8, 8, 3), np.uint8)),
    ]
    models = [
        ServedModel(
            "finder", Finder(), True, (("Task", "finds"),), Inside("Negative", lambda i: 255 - i)
        ),
        ServedModel("namer", Namer(), False, (("Task", "names"),), Inside("Nothing", refuse)),
        ServedModel("graph", Namer(), False, (), None),
    ]
    return Answers(models, examples, Limits(side=20))


def test_a_picture_is_received_as_models_get_it(answers, picture):
    image, message = answers.receive(picture)
    assert image.shape == (15, 20, 3)
    assert message == ""


def test_a_bad_picture_is_called_by_its_owners_name(answers, picture, tmp_path):
    (tmp_path / "stored.png").write_text("words")
    image, message = answers.receive(picture)
    assert image is None
    assert "mine.png: this is no image" in message and str(tmp_path) not in message


def test_examples_are_picked_by_their_number(answers):
    image, message = answers.pick(SimpleNamespace(index=1))
    assert (image == (255, 0, 0)).all() and image.shape == (8, 8, 3)
    assert message == ""
    image, message = answers.pick(SimpleNamespace(index=0))  # deleted meanwhile
    assert image is None and "gone.png: there is no such" in message


def test_a_detector_gives_picture_summary_and_table(answers, picture):
    message, found, classes, summary, table = answers.look(picture, "finder", 0.5)
    assert message == ""
    assert found["visible"] and found["value"].shape[2] == 3
    assert not classes["visible"] and classes["value"] is None
    assert "<strong>1 object</strong>" in summary
    assert "cat" in table and "dog" not in table
    more = answers.look(picture, "finder", 0.05)
    assert "dog" in more[4]
    assert (more[1]["value"] != found["value"]).any()


def test_a_classifier_gives_classes(answers, picture):
    message, found, classes, _, table = answers.look(picture, "namer", 0.5)
    assert (message, table) == ("", "")
    assert found["value"] is None and not found["visible"]
    assert classes["value"] == {"dog": 0.75, "cat": 0.25} and classes["visible"]


@pytest.mark.parametrize("model, detects", [("finder", True), ("namer", False)])
def test_without_a_picture_all_is_empty_but_the_message(answers, model, detects):
    message, found, classes, summary, table = answers.look(None, model, 0.5)
    assert message == gr.skip()
    assert (found["value"], found["visible"]) == (None, detects)
    assert (classes["value"], classes["visible"]) == (None, not detects)
    assert (summary, table) == ("", "")


def test_a_picture_that_is_gone_is_told(answers, picture, tmp_path):
    (tmp_path / "stored.png").unlink()
    message, found, _, summary, _ = answers.look(picture, "finder", 0.5)
    assert "the picture has been deleted; send it again" in message and str(tmp_path) not in message
    assert found["value"] is None and summary == ""


def test_what_a_model_refuses_is_told(answers, tmp_path):
    Image.new("RGB", (9, 1)).save(tmp_path / "line.png")
    file = {"path": str(tmp_path / "line.png")}
    assert "too small a picture" in answers.look(file, "namer", 0.5)[0]


def test_a_look_inside(answers, picture):
    drawn, note = answers.look_inside(picture, "finder")
    assert (drawn["value"] == (205, 195, 185)).all()
    assert drawn["visible"] and drawn["label"] == "Negative" and note == ""
    drawn, note = answers.look_inside(picture, "namer")
    assert drawn["value"] is None and "nothing to see" in note
    drawn, note = answers.look_inside(picture, "graph")
    assert not drawn["visible"] and "ONNX" in note
    assert answers.look_inside(None, "finder")[0]["value"] is None


def test_describe_shows_the_threshold_to_detectors_alone(answers):
    assert answers.describe("finder")[0]["visible"] and "finds" in answers.describe("finder")[1]
    assert not answers.describe("namer")[0]["visible"]


def test_made_up_requests_are_refused_quietly(answers, picture):
    for request in (
        lambda: answers.describe("other"),
        lambda: answers.look(picture, "other", 0.5),
        lambda: answers.look({"path": None, "url": "data:,x"}, "finder", 0.5),
        lambda: answers.receive(None),
    ):
        with pytest.raises(gr.Error) as error:
            request()
        assert not error.value.print_exception  # or the log would fill with tracebacks
