"""Pages of pictures of what goes on inside a model: attention, features and Grad-CAM."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import UserError
from .activations import points
from .attention import Query, attention_layers, attention_maps
from .feature_maps import feature_maps, liveliest_channels, principal_components
from .grad_cam import default_point, grad_cam
from .looking import default_query
from .overlay import enlarged, overlay, spread, stretched
from .sheet import Tile, sheet, wrapped
from .view import View

if TYPE_CHECKING:
    from ..inference import LoadedModel

Kind = Literal["attention", "features", "gradcam"]
Place = tuple[float, float]

#: Longest side of a tile in pixels, where there are many and where there are two.
_TILE, _LARGE = 192, 448
_COLUMNS = 5
_CHANNELS = 4
_MARK = (0, 220, 120)


@dataclass(frozen=True, kw_only=True)
class Looking:
    """What to look at.

    Attributes:
        layers: Layers of vision transformers or stages of ResNets, from 0; None chooses.
        heads: ``"all"`` side by side, their ``"mean"``, or one of them.
        query: Who looks; a place is (y, x) in pixels of the image. None chooses the class token,
            and all places of models that have none.
        rollout: See :func:`~halvit_mm.visualization.attention.attention_maps`.
        class_name: The class that Grad-CAM explains, its name or number; None explains the surest.
        cam_layer: The layer or stage that Grad-CAM looks at; None chooses.
    """

    layers: tuple[int, ...] | None = None
    heads: Literal["all", "mean"] | int = "mean"
    query: Query | None = None
    rollout: bool = False
    class_name: str | None = None
    cam_layer: int | None = None


def page(loaded: "LoadedModel", seen: View, kind: Kind, looking: Looking) -> np.ndarray:
    """The page of one kind for an image, (height, width, 3) uint8, RGB.

    Raises:
        UserError: The model has nothing of this kind, or not what ``looking`` names.
    """
    pages = dict(attention=_attention, features=_features, gradcam=_grad_cam)
    return pages[kind](loaded, seen, looking)


def _attention(loaded: "LoadedModel", seen: View, looking: Looking) -> np.ndarray:
    """A tile for each layer, or with several heads a row."""
    backbone = loaded.model.backbone
    query = looking.query or default_query(backbone)
    marked = None if isinstance(query, str) else seen.place(*query)
    stack = attention_layers(backbone, tuple(seen.inputs.shape[2:]))
    maps = attention_maps(
        backbone, seen.inputs, looking.layers, query=marked or query, rollout=looking.rollout
    )
    rows = []
    for i, looked_at in maps.items():
        covers = seen.covers(stack[i].stride)
        row = []
        for name, heat in _chosen_heads(looked_at[0], looking):
            heat = seen.cut(heat, stack[i].stride).numpy()
            picture = overlay(seen.image, spread(heat), longest=_TILE, covers=covers)
            caption = f"layer {i}{name}: {_amounts(heat, query)}"
            row.append(Tile(_marked(picture, seen, marked), caption))
        rows.append(row)
    image = Tile(_marked(enlarged(seen.image, _TILE), seen, marked), "what the model sees")
    if max(map(len, rows)) == 1:
        rows = wrapped([image, *(row[0] for row in rows)], _COLUMNS)
    else:
        rows = [[image], *rows]
    who = {"mean": "all places", "cls": "the class token"}.get(query, "the marked place")
    title = f"What {who} look{'' if query == 'mean' else 's'} at"
    if looking.rollout:
        title = f"Attention of {who}, rolled out"
    unit = "1× is an even share" if query == "mean" else "% of the attention"
    note = f"Numbers: least to greatest, {unit}. Each picture has a scale of its own."
    return sheet(title, rows, notes=[note])


def _chosen_heads(maps: Tensor, looking: Looking) -> list[tuple[str, Tensor]]:
    """Captions and maps (H, W) of the heads of a layer (heads, H, W)."""
    if looking.heads == "mean" or looking.rollout:
        return [("", maps.mean(0))]
    heads = looking.heads
    if heads == "all":
        return [(f", head {i}", heat) for i, heat in enumerate(maps)]
    if not 0 <= heads < len(maps):
        raise UserError(
            f"--heads {heads}: a layer has {len(maps)} heads; give a number from 0 to "
            f"{len(maps) - 1}, all or mean"
        )
    return [(f", head {heads}", maps[heads])]


def _amounts(heat: np.ndarray, query: Query) -> str:
    factor, unit = (1, "×") if query == "mean" else (100, "%")
    low, high = (f"{factor * end:.3g}" if factor * abs(end) >= 0.01 else "0" for end in _ends(heat))
    return f"{low} to {high}{unit}"


def _ends(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _marked(picture: np.ndarray, seen: View, place: Place | None) -> np.ndarray:
    """The picture with a cross where the query is, given as a place in the model's input."""
    if place is None:
        return picture
    canvas = Image.fromarray(picture)
    y, x = (
        at / length * side
        for at, length, side in zip(place, seen.size, picture.shape[:2], strict=True)
    )
    draw = ImageDraw.Draw(canvas)
    for colour, width in (("black", 5), (_MARK, 2)):
        draw.line((x - 8, y, x + 8, y), fill=colour, width=width)
        draw.line((x, y - 8, x, y + 8), fill=colour, width=width)
    return np.asarray(canvas)


def _features(loaded: "LoadedModel", seen: View, looking: Looking) -> np.ndarray:
    """A row for each layer: its features as colours, and the channels that vary most."""
    backbone, inputs = loaded.model.backbone, seen.inputs
    reached = points(backbone, tuple(inputs.shape[2:]))
    size = enlarged(seen.image, _TILE).shape[:2]
    rows = []
    for i, (features,) in feature_maps(backbone, inputs, looking.layers).items():
        stride = reached[i].stride or inputs.shape[2] / features.shape[1]
        covers = seen.covers(stride)
        features = seen.cut(features, stride)
        parts, share = principal_components(features)
        colours = [stretched(spread(part.numpy()), size, covers) for part in parts]
        picture = np.rint(255 * np.clip(np.stack(colours, axis=2), 0, 1)).astype(np.uint8)
        row = [Tile(picture, f"{reached[i].kind} {i}: colours hold {share:.0%}")]
        for channel in liveliest_channels(features, _CHANNELS):
            heat = features[channel].numpy()
            picture = overlay(seen.image, spread(heat), longest=_TILE, covers=covers)
            low, high = _ends(heat)
            caption = f"channel {channel}: {low:.2g} to {high:.2g}"
            row.append(Tile(picture, caption))
        rows.append(row)
    image = Tile(enlarged(seen.image, _TILE), "what the model sees")
    notes = [
        "Colours: the three directions in which a layer's features vary most, as red, green, blue,",
        "and their share of the variance. Right of them the channels that vary most.",
    ]
    return sheet("Features, layer by layer", [[image], *rows], notes=notes)


def _grad_cam(loaded: "LoadedModel", seen: View, looking: Looking) -> np.ndarray:
    """The image beside what speaks for a class in it."""
    index = None if looking.class_name is None else class_number(loaded, looking.class_name)
    reached = points(loaded.model.backbone, tuple(seen.inputs.shape[2:]))
    layer = default_point(reached) if looking.cam_layer is None else looking.cam_layer
    found = grad_cam(loaded.model, seen, class_index=index, layer=layer)
    image = Tile(enlarged(seen.image, _LARGE), "what the model sees")
    if found is None:
        what = "anything" if index is None else loaded.classes[index]
        return sheet("Grad-CAM", [[image]], notes=[f"The detector does not find {what} here."])
    name = loaded.classes[found.class_index]
    heat = overlay(seen.image, spread(found.heat, least=0), longest=_LARGE)
    if found.count is None:
        caption = f"{name}: {found.score:.1%}"
    else:
        caption = f"{name}: {found.count} places, the surest {found.score:.2f}"
    note = f"What speaks for the class, in what {reached[layer].kind} {layer % len(reached)} gives."
    return sheet(f"Grad-CAM of {name}", [[image, Tile(heat, caption)]], notes=[note])


def class_number(loaded: "LoadedModel", name: str) -> int:
    """The number of a class, by its name or its number.

    Raises:
        UserError: The model has no such class.
    """
    classes = list(loaded.classes)
    if name in classes:
        return classes.index(name)
    folded = [known.casefold() for known in classes]
    if folded.count(name.casefold()) == 1:
        return folded.index(name.casefold())
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    near = get_close_matches(name, classes, n=3) or classes[:5]
    raise UserError(
        f"--class {name}: the model has no such class; give a number from 0 to {len(classes) - 1} "
        f"or a name, such as {', '.join(near)}"
    )
