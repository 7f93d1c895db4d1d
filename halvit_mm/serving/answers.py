"""What happens when a visitor touches something, apart from how the page looks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ..errors import UserError
from ..inference.drawing import draw_detections
from ..inference.images import read_image
from ..inference.results import Detections
from . import words
from .looks import Looks
from .models import ServedModel
from .uploads import Example, Limits, open_picture

#: What Gradio says of a picture on the page: ``path`` on this machine, ``orig_name`` on its
#: owner's; None of no picture.
File = dict[str, Any] | None


class Answers:
    """What the page shows next; each method gives the values of some of its elements."""

    def __init__(
        self, models: Sequence[ServedModel], examples: Sequence[Example], limits: Limits
    ) -> None:
        self._models = {model.name: model for model in models}
        self._examples = examples
        self._limits = limits
        self._looks = Looks({model.name: model.predictor for model in models})

    def receive(self, file: File) -> tuple[np.ndarray | None, str]:
        """Picture and message: what was sent, in the form that models and browsers understand."""
        path = _path(file)
        return self._open(path, (file or {}).get("orig_name") or path.name)

    def pick(self, event: gr.SelectData) -> tuple[np.ndarray | None, str]:
        """Picture and message: the example that was chosen."""
        file = self._examples[event.index].file
        return self._open(file, file.name)

    def describe(self, name: str) -> tuple[Any, str]:
        """Threshold and facts: of the model that was chosen."""
        model = self._model(name)
        return gr.update(visible=model.detects), words.facts_table(model.facts)

    def look(self, file: File, name: str, threshold: float) -> tuple[Any, ...]:
        """Message, picture, classes, summary and table: what the model says."""
        model = self._model(name)
        picture, classes = gr.update(value=None), gr.update(value=None)
        message, summary, table = gr.skip(), "", ""
        if file is not None:
            path = _path(file)
            try:
                look = self._looks.look(name, str(path), lambda: _read(path))
            except UserError as error:
                message = words.message(str(error))
            else:
                result = look.result
                if isinstance(result, Detections):
                    result = result.above(threshold)
                    picture = gr.update(value=draw_detections(look.image, result))
                    table = words.detections_table(result)
                else:
                    classes = gr.update(value=dict(result.top()))
                message, summary = "", words.summary(look, result, threshold)
        picture["visible"], classes["visible"] = model.detects, not model.detects
        return message, picture, classes, summary, table

    def look_inside(self, file: File, name: str) -> tuple[Any, str]:
        """Picture and note: where the model looks."""
        inside = self._model(name).inside
        if inside is None:
            return gr.update(value=None, visible=False), words.note(
                "An ONNX file shows no attention."
            )
        empty = gr.update(value=None, visible=True, label=inside.title)
        if file is None:
            return empty, ""
        try:
            drawn = inside.draw(_read(_path(file)))
        except UserError as error:
            return empty, words.note(str(error))
        return gr.update(value=drawn, visible=True, label=inside.title), ""

    def _open(self, file: Path, name: str) -> tuple[np.ndarray | None, str]:
        try:
            return open_picture(file, name=name, limits=self._limits), ""
        except UserError as error:
            return None, words.message(str(error))

    def _model(self, name: str) -> ServedModel:
        if name not in self._models:
            raise gr.Error("There is no such model.", print_exception=False)
        return self._models[name]


def _path(file: File) -> Path:
    """Where a picture is; Gradio has checked that this is its own folder."""
    path = (file or {}).get("path")
    if not isinstance(path, str):
        raise gr.Error("There is no such picture.", print_exception=False)
    return Path(path)


def _read(file: Path) -> np.ndarray:
    """A picture that the page shows already."""
    if not file.is_file():  # it lay there for too long
        raise UserError("the picture has been deleted; send it again")
    return read_image(file, name="picture")
