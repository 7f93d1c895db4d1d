"""Images of any kind as what models are trained on: 8 bits, red, green and blue, upright."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError

#: Larger images are refused before they are decoded: a file of some kilobytes may stand for
#: gigabytes of pixels. In RGB this is a quarter of a gigabyte, which is Pillow's own measure.
MAX_PIXELS = 89_000_000
#: Longer and narrower images are refused: pipelines enlarge the short side, and the long one with
#: it.
MAX_RATIO = 2_000

# Those that cameras, microscopes and the web use. Pillow knows many more, of which some run other
# programs.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def read_image(source: str | Path | bytes, *, name: str | None = None) -> np.ndarray:
    """Reads an image as the data loaders of training would, and where they differ, as people do.

    It is turned as its EXIF data say. 16 bits become their upper 8, as in OpenCV. Grey becomes
    three equal channels. What is transparent shows white, the page it would lie on, and not the
    colours that happen to be hidden there. Of animations and files of several pages the first
    picture is taken. Colour profiles are ignored, as in training.

    Args:
        source: A file, or the bytes of one.
        name: What messages call the image; default: its path.

    Returns:
        (height, width, 3) uint8, RGB; of JPEG and PNG files the very pixels that OpenCV gives.

    Raises:
        UserError: The file is missing, empty, damaged, cut off, too large or no image.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    encoded = source if isinstance(source, bytes) else _read_bytes(Path(source), name)
    if not encoded:
        raise UserError(f"{name}: the file is empty; copy the image again")
    try:
        with warnings.catch_warnings():
            # Images that Pillow warns of are refused below; what it says of odd EXIF data is noise.
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(encoded), formats=_FORMATS) as image:
                _check_size(image.size, name)
                pixels = np.asarray(_rgb(ImageOps.exif_transpose(image), name))
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{name}: this is no image that can be read; give one of {', '.join(_FORMATS)}"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{name}: the image has more than {MAX_PIXELS:,} pixels; cut it into pieces or make "
            "it smaller"
        ) from None
    except Exception as error:  # Pillow lets through whatever its decoders stumble over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name}: the image is damaged or cut off ({reason}); copy it again"
        ) from error
    return pixels


def check_pixels(image: Any, name: str = "the image") -> np.ndarray:
    """An array that was given as an image.

    Raises:
        UserError: It is not (height, width, 3) uint8, or too large.
    """
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"{name} is a {type(image).__name__}; give a path, or an array (height, width, 3) of "
            "uint8 in RGB"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(
            f"{name} is an array {image.shape} of {image.dtype}; give (height, width, 3) of uint8 "
            "in RGB"
        )
    _check_size((image.shape[1], image.shape[0]), name)
    return image


def _read_bytes(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such image; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a zero within the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: the image cannot be read ({reason})") from error


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name}: the image has {width} × {height} pixels, more than {MAX_PIXELS:,}; cut it "
            "into pieces or make it smaller"
        )
    if max(size) > MAX_RATIO * min(size):
        raise UserError(
            f"{name}: the image has {width} × {height} pixels, one side more than {MAX_RATIO:,} "
            "times the other; cut it into pieces"
        )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    """The first picture of an open file in RGB."""
    # Pillow has a mode for 16 bits of grey, but not in all formats.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UserError(
            f"{name}: the image has 32 bits a pixel, of which nothing says what is white; convert "
            "it to 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
