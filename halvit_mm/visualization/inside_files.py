"""Looking into a model on many files: going on past what cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import UserError
from ..files import whole_file
from ..inference.images import read_image
from .inside import Kind, Looking, page
from .view import View, view

if TYPE_CHECKING:
    from ..inference import LoadedModel
    from ..inference.inputs import InputFile, Inputs


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of a run.

    Attributes:
        pages: The pictures written.
        problems: What could not be looked at, a line each.
    """

    pages: tuple[Path, ...]
    problems: tuple[str, ...]


def look_into_files(
    loaded: "LoadedModel",
    inputs: "Inputs",
    out: Path,
    kinds: Sequence[Kind],
    looking: Looking,
) -> Summary:
    """Writes ``<name>_<kind>.png`` for each image and kind, each file whole or not at all.

    Args:
        loaded: The model.
        inputs: Images; videos are passed over.
        out: Folder to write to.
        kinds: What to draw.
        looking: What to look at.

    Raises:
        UserError: The model has nothing of a kind, or not what ``looking`` names; the disk is full.
    """
    from tqdm import tqdm

    pages, problems = [], list(inputs.missing)
    for file in tqdm(inputs.files, unit=" images", disable=None):
        try:
            seen = _view(loaded, file, looking)
        except UserError as error:
            message = str(error)
            problems.append(message if str(file.path) in message else f"{file.path}: {message}")
            continue
        for kind in kinds:
            pixels = page(loaded, seen, kind, looking)
            target = out / f"{file.name}_{kind}.png"
            with whole_file(target) as temporary:
                Image.fromarray(pixels).save(temporary, format="PNG")
            pages.append(target)
    return Summary(pages=tuple(pages), problems=tuple(problems))


def _view(loaded: "LoadedModel", file: "InputFile", looking: Looking) -> View:
    """The image, if there is one, if it fits the model and if it has the place that is asked for.

    Raises:
        UserError: One of these is not so.
    """
    if file.is_video:
        raise UserError(f"{file.path}: this is a video; give single images")
    seen = view(loaded, read_image(file.path))
    if isinstance(looking.query, tuple):
        seen.place(*looking.query)
    return seen
