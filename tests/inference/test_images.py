"""Images of every kind become what models are trained on, or one sentence."""

import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from halvit_mm.errors import UserError
from halvit_mm.inference import read_image
from halvit_mm.inference.images import MAX_PIXELS, MAX_RATIO, check_pixels


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture, (40, 60, 3), which JPEG keeps well; turned, it looks different."""
    y, x = np.mgrid[:40, :60]
    return np.stack([4 * x, 6 * y, 120 + x - y], axis=2).astype(np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options) -> Path:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.webp", "a.jp2"])
def test_lossless_kinds_come_as_they_are(tmp_path, pixels, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    file = save(tmp_path / name, pixels, **options)
    assert (read_image(file) == pixels).all()
    assert (read_image(str(file)) == pixels).all()
    assert (read_image(file.read_bytes()) == pixels).all()


def test_a_jpeg_comes_as_training_sees_it(tmp_path, pixels):
    file = save(tmp_path / "a.jpg", pixels, quality=80)
    assert (read_image(file) == cv2.imread(str(file))[..., ::-1]).all()


def test_photographs_come_as_training_sees_them(test_data):
    files = sorted((test_data / "coco_by/val").glob("*.jpg"))
    assert len(files) > 20
    for file in files:
        assert (read_image(file) == cv2.imread(str(file))[..., ::-1]).all(), file


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_exif_turns_the_image_as_opencv_does(tmp_path, pixels, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / f"a.{kind}", pixels, exif=exif)
    found = read_image(file)
    assert found.shape == ((60, 40, 3) if orientation > 4 else (40, 60, 3))
    if kind == "jpg":
        assert (found == cv2.imread(str(file))[..., ::-1]).all()
    else:
        turned = np.rot90(pixels, {6: -1, 8: 1, 3: 2}.get(orientation, 0))
        assert orientation not in (1, 3, 6, 8) or (found == turned).all()


def test_grey_becomes_three_equal_channels(tmp_path, pixels):
    found = read_image(save(tmp_path / "a.png", pixels[..., 0]))
    assert found.shape == (40, 60, 3)
    assert (found == pixels[..., :1]).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_of_16_bits_the_upper_8_count(tmp_path, name):
    deep = np.linspace(0, 65535, 60 * 40).astype(np.uint16).reshape(40, 60)
    assert cv2.imwrite(str(tmp_path / name), deep)
    found = read_image(tmp_path / name)
    assert found.min() == 0
    assert found.max() == 255
    assert (found == (deep >> 8)[..., None]).all()
    assert (found == cv2.imread(str(tmp_path / name))[..., ::-1]).all()


def test_of_16_bits_in_colour_the_upper_8_count(tmp_path, pixels):
    deep = pixels.astype(np.uint16) * 256 + 17
    assert cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    assert (read_image(tmp_path / "a.png") == pixels).all()


def test_cmyk_becomes_rgb(tmp_path, pixels):
    file = save(tmp_path / "a.jpg", Image.fromarray(pixels).convert("CMYK"), quality=95)
    with Image.open(file) as image:
        assert image.mode == "CMYK"
    found = read_image(file)
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).mean() < 8


def test_transparent_pixels_show_white_and_not_what_they_hide(tmp_path, pixels):
    alpha = np.full((40, 60, 1), 255, np.uint8)
    alpha[:10] = 0
    alpha[10:20] = 128
    found = read_image(save(tmp_path / "a.png", np.concatenate([pixels, alpha], axis=2)))
    assert (found[:10] == 255).all()
    assert (found[20:] == pixels[20:]).all()
    half = (pixels[10:20].astype(int) + 255) / 2
    assert np.abs(found[10:20] - half).max() <= 2


def test_palettes_and_their_transparent_colour(tmp_path):
    image = Image.new("P", (8, 4), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 8, 2))
    assert (read_image(save(tmp_path / "a.png", image))[0, 0] == (10, 20, 30)).all()
    found = read_image(save(tmp_path / "b.png", image, transparency=0))
    assert (found[:2] == 255).all()
    assert (found[2:] == (200, 100, 50)).all()


def test_black_and_white(tmp_path):
    image = Image.new("1", (8, 4), 0)
    image.paste(1, (0, 0, 8, 2))
    found = read_image(save(tmp_path / "a.png", image))
    assert (found[:2] == 255).all()
    assert (found[2:] == 0).all()


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif"])
def test_of_several_pictures_the_first_is_taken(tmp_path, name):
    frames = [Image.new("RGB", (16, 12), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    file = tmp_path / name
    options = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(file, save_all=True, append_images=frames[1:], **options)
    assert Image.open(file).n_frames == 3
    assert (read_image(file) == (255, 0, 0)).all()


def test_an_mpo_of_a_camera_is_a_jpeg(tmp_path, pixels):
    first, second = Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - pixels).mean() < 8


@pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (20, 20_000)])
def test_tiny_and_narrow_images_are_read(tmp_path, size):
    file = save(tmp_path / "a.png", Image.new("RGB", size, "red"))
    assert read_image(file).shape == (size[1], size[0], 3)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no such pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(kind: str, **options) -> bytes:
    buffer = BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


BAD = {
    "empty": (b"", "a.img: the file is empty"),
    "text": (b"no image at all\n" * 10, "a.img: this is no image that can be read"),
    "pdf": (b"%PDF-1.7\n" + b"x" * 200, "a.img: this is no image that can be read"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.img: this is no image"),
    "one byte": (b"\xff", "a.img: this is no image that can be read"),
    "cut jpeg": (encoded("JPEG")[:2000], "a.img: the image is damaged or cut off"),
    "nearly whole jpeg": (encoded("JPEG")[:-40], "a.img: the image is damaged or cut off"),
    "cut png": (encoded("PNG")[:5000], "a.img: the image is damaged or cut off"),
    "cut gif": (encoded("GIF")[:1500], "a.img: the image is damaged or cut off"),
    "cut tiff": (encoded("TIFF")[:5000], "a.img: the image is damaged or cut off"),
    "cut webp": (encoded("WEBP")[:1000], "a.img: "),
    "damaged png": (
        encoded("PNG")[:3000] + b"\0" * 60 + encoded("PNG")[3060:],
        "a.img: the image is damaged or cut off",
    ),
    "bomb": (png_header(30_000, 30_000), "a.img: the image has more than 89,000,000 pixels"),
    "half a bomb": (png_header(10_000, 10_000), "a.img: the image has 10000 × 10000 pixels, more"),
    "thread": (png_header(200_000, 20), "a.img: the image has 200000 × 20 pixels, one side more"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_one_sentence(tmp_path, kind):
    content, sentence = BAD[kind]
    (tmp_path / "a.img").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / "a.img", name="a.img")
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    if content:
        with pytest.raises(UserError, match=r"^upload: "):
            read_image(content, name="upload")


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"b\.png: there is no such image; check the path"):
        read_image(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"the image cannot be read \(Is a directory\)"):
        read_image(tmp_path)


def test_32_bits_have_no_white(tmp_path):
    file = save(tmp_path / "a.tif", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    with pytest.raises(UserError, match="32 bits a pixel"):
        read_image(file)


@pytest.mark.filterwarnings("error")
def test_large_images_within_the_limit_come_without_a_warning(tmp_path):
    side = int(MAX_PIXELS**0.5)
    file = save(tmp_path / "a.png", Image.new("1", (side, side)))
    assert read_image(file).shape == (side, side, 3)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ([[0]], "is a list; give a path, or an array"),
        (np.zeros((4, 4), np.uint8), r"array \(4, 4\) of uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"array \(4, 4, 4\) of uint8"),
        (np.zeros((4, 4, 3)), r"array \(4, 4, 3\) of float64"),
        (np.zeros((0, 4, 3), np.uint8), r"array \(0, 4, 3\)"),
        (np.zeros((1, MAX_RATIO + 1, 3), np.uint8), "one side more than 2,000 times the other"),
    ],
)
def test_arrays_that_are_no_images(image, words):
    with pytest.raises(UserError, match=words):
        check_pixels(image)


def test_reading_images_needs_no_models(root):
    heavy = ("mmdet", "mmpretrain", "onnxruntime", "halvit_mm.inference.models")
    code = (
        "import sys; from halvit_mm.inference import read_image; "
        f"sys.exit(any(name in sys.modules for name in {heavy}))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
