"""Heat over images, pages of pictures, and the two pictures for those who have room for one."""

import numpy as np
import pytest
from looked_into import CLASSES, classifier, detector, photograph
from PIL import Image

from halvit_mm.errors import UserError
from halvit_mm.inference.inputs import find_inputs
from halvit_mm.visualization.attention import attention_maps
from halvit_mm.visualization.inside import Looking, class_number, page
from halvit_mm.visualization.inside_files import look_into_files
from halvit_mm.visualization.looking import attention_picture, grad_cam_picture
from halvit_mm.visualization.overlay import enlarged, overlay, spread, stretched
from halvit_mm.visualization.sheet import Tile, sheet, wrapped
from halvit_mm.visualization.view import view

VIT = dict(arch=dict(dim=12, depth=3, num_heads=3), img_size=(48, 64), patch_size=8)
BACKBONES = {
    "halvit": (dict(type="HaLViT", **VIT), 12),
    "mini deit": (dict(type="MiniDeiT", **VIT, share=3), 12),
    "mini swin": (
        dict(
            type="MiniSwin",
            arch=dict(dim=8, depths=(2, 2), num_heads=(2, 4)),
            share=2,
            window_size=3,
        ),
        16,
    ),
    "half resnet": (dict(type="HalfResNet", base_channels=8, out_indices=(3,)), 256),
    "half resnext": (
        dict(type="HalfResNeXt", depth=50, groups=2, base_channels=8, out_indices=(3,)),
        256,
    ),
}
ATTENDING = [name for name in BACKBONES if "res" not in name]


def build(name: str, **options):
    backbone, channels = BACKBONES[name]
    return classifier(dict(backbone), channels=channels, **options)


# Overlay


def test_heat_lies_where_it_belongs():
    image = np.full((40, 60, 3), 128, np.uint8)
    heat = np.zeros((4, 6))
    heat[0, 4] = 1
    picture = overlay(image, heat).astype(int)
    assert picture.shape == image.shape
    colour = np.abs(picture - picture.mean(axis=2, keepdims=True)).sum(axis=2)
    y, x = np.unravel_index(colour.argmax(), colour.shape)
    assert 0 <= y < 10
    assert 38 <= x < 52
    assert (np.abs(picture[20:, :30] - picture[-1, 0]) <= 1).all()


def test_the_last_token_may_lie_half_beside_the_image():
    heat = np.array([[0.0, 1.0, 0.0]])
    whole = stretched(heat, (10, 60))
    half = stretched(heat, (10, 60), (1, 2.5))
    assert whole.shape == half.shape == (10, 60)
    assert abs(int(whole[0].argmax()) - 30) <= 2
    assert abs(int(half[0].argmax()) - 36) <= 2  # 1.5 of 2.5 tokens


def test_spread_is_not_led_by_one_outlier():
    values = np.linspace(2, 3, 1000)
    values[500] = 1000.0
    out = spread(values)
    assert out[500] == 1
    assert out[0] == 0
    assert out[250] == pytest.approx(0.25, abs=0.02)
    assert spread(values, least=0)[0] == pytest.approx(2 / 3, abs=0.02)


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((2, 2), 7.0), np.ones((1, 1))])
def test_spread_of_equal_values_is_nothing(values):
    assert (spread(values) == 0).all()


def test_a_single_high_value_is_still_seen():
    values = np.zeros(1000)
    values[3] = 5
    assert spread(values).argmax() == 3
    assert spread(values, least=0).max() == 1


@pytest.mark.parametrize(("shape", "longest"), [((4, 8), 100), ((400, 90), 100), ((1, 500), 100)])
def test_enlarged(shape, longest):
    out = enlarged(np.zeros((*shape, 3), np.uint8), longest)
    assert max(out.shape) == longest
    assert min(out.shape[:2]) == max(1, round(longest * min(shape) / max(shape)))


# Sheet


def test_tiles_stand_in_their_places():
    reds = [np.full((20, 30, 3), (200, 0, shade), np.uint8) for shade in (10, 20, 30)]
    rows = [[Tile(reds[0], "a"), Tile(reds[1], "b")], [Tile(reds[2], "c" * 300)]]
    out = sheet("title", rows, notes=["note"])
    places = [np.argwhere((out == red[0, 0]).all(axis=2)) for red in reds]
    assert [len(found) for found in places] == [600, 600, 600]
    (ya, xa), (yb, xb), (yc, xc) = (found.min(axis=0) for found in places)
    assert ya == yb < yc
    assert xa == xc < xb
    assert (out[0] == 255).all()
    assert (out[:, -1] == 255).all()


def test_wrapped():
    tiles = [Tile(np.zeros((1, 1, 3), np.uint8), str(i)) for i in range(5)]
    assert [[tile.caption for tile in row] for row in wrapped(tiles, 3)] == [
        list("012"),
        list("34"),
    ]


# Pages


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("kind", ["attention", "features", "gradcam"])
def test_pages_of_every_backbone(name, kind):
    loaded = build(name)
    seen = view(loaded, photograph())
    if kind == "attention" and name not in ATTENDING:
        with pytest.raises(UserError, match=r"HalfRes\w+ has no attention"):
            page(loaded, seen, kind, Looking())
        return
    out = page(loaded, seen, kind, Looking())
    assert out.dtype == np.uint8
    assert out.ndim == 3
    # There are colours in it that are not in the image.
    assert np.abs(out[..., 0].astype(int) - out[..., 2]).max() > 100


def captions(monkeypatch) -> list[str]:
    """The captions of the tiles that are drawn from here on."""
    drawn = []
    init = Tile.__init__
    monkeypatch.setattr(
        Tile, "__init__", lambda self, *args: drawn.append(args[1]) or init(self, *args)
    )
    return drawn


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        (dict(), ["layer 0: ", "layer 1: ", "layer 2: "]),
        (dict(layers=(2, 0)), ["layer 0: ", "layer 2: "]),
        (dict(layers=(1,), heads="all"), [f"layer 1, head {i}: " for i in range(3)]),
        (dict(layers=(1,), heads=2), ["layer 1, head 2: "]),
        (dict(rollout=True), ["layer 2: "]),
        (dict(rollout=True, heads="all"), ["layer 2: "]),
    ],
)
@pytest.mark.parametrize("query", ["mean", "cls", (20, 30), None])
def test_attention_pages(options, layers, query, monkeypatch):
    loaded = build("halvit")
    seen = view(loaded, photograph())
    drawn = captions(monkeypatch)
    page(loaded, seen, "attention", Looking(query=query, **options))
    tiles = sorted(caption for caption in drawn if caption.startswith("layer"))
    assert [tile[: len(start)] for tile, start in zip(tiles, layers, strict=True)] == layers
    assert all(tile.endswith("×" if query == "mean" else "%") for tile in tiles)


def test_numbers_are_those_of_the_maps(monkeypatch):
    loaded = build("halvit")
    seen = view(loaded, photograph())
    drawn = captions(monkeypatch)
    page(loaded, seen, "attention", Looking(query=(20, 30), heads=1, layers=(0,)))
    (maps,) = attention_maps(loaded.model.backbone, seen.inputs, [0], query=(20, 30)).values()
    assert any(caption.endswith(f" to {100 * maps[0, 1].max():.3g}%") for caption in drawn)


def test_heads_that_are_not_there():
    loaded = build("halvit")
    with pytest.raises(
        UserError, match="--heads 3: a layer has 3 heads; give a number from 0 to 2"
    ):
        page(loaded, view(loaded, photograph()), "attention", Looking(heads=3))


@pytest.mark.parametrize("name", ["dog", "DOG", "1"])
def test_classes_by_name_and_number(name):
    assert class_number(build("half resnet"), name) == 1


@pytest.mark.parametrize("name", ["dgo", "3", "-1", ""])
def test_classes_that_are_not_there(name):
    with pytest.raises(
        UserError, match=rf"--class {name}: .* from 0 to 2 or a name, such as .*dog"
    ):
        class_number(build("half resnet"), name)


def test_the_grad_cam_page_names_the_class(monkeypatch):
    loaded = build("half resnet")
    seen = view(loaded, photograph())
    drawn = captions(monkeypatch)
    page(loaded, seen, "gradcam", Looking(class_name="bird"))
    (text,) = (caption for caption in drawn if caption != "what the model sees")
    assert text.startswith("bird: ")
    assert text.endswith("%")


# Pictures for those who have room for one


@pytest.mark.parametrize("name", BACKBONES)
def test_pictures(name):
    loaded, image = build(name), photograph()
    explained = grad_cam_picture(loaded, image)
    assert explained.shape == (360, 480, 3)
    shown = [grad_cam_picture(loaded, image, class_index=i) for i in range(3)]
    assert any(np.array_equal(explained, picture) for picture in shown)
    assert any(not np.array_equal(shown[0], picture) for picture in shown[1:])
    if name in ATTENDING:
        attention = attention_picture(loaded, image)
        assert attention.shape == (360, 480, 3)
        assert np.abs(attention[..., 0].astype(int) - attention[..., 2]).max() > 100
    else:
        with pytest.raises(UserError, match="has no attention"):
            attention_picture(loaded, image)


def test_the_attention_picture_follows_the_image():
    """Turned by half a turn, a model without positions looks at the same things."""
    loaded, image = build("halvit"), photograph(48, 48)
    backbone = loaded.model.backbone
    backbone.pos_embed.data.zero_()
    weight = backbone.patch_embed.weight
    weight.data[:] = weight.mean((2, 3), keepdim=True)  # blind to what turns within a patch
    picture = attention_picture(loaded, image).astype(int)
    turned = attention_picture(loaded, np.ascontiguousarray(image[::-1, ::-1])).astype(int)
    assert np.abs(turned[::-1, ::-1] - picture).max() <= 6
    assert np.abs(turned - picture).max() > 30


@pytest.mark.parametrize("shape", [(30, 3000), (2000, 1500), (1, 1)])
def test_pictures_have_a_size_that_people_look_at(shape):
    loaded = build("halvit", pipeline=[dict(type="Resize", scale=(64, 48))])
    assert 480 <= max(attention_picture(loaded, photograph(*shape)).shape) <= 1280


def test_a_detector_that_finds_nothing(monkeypatch):
    from test_grad_cam import faster_rcnn

    loaded = detector(faster_rcnn("HaLViT", score_thr=1.1))
    image = photograph()
    picture = grad_cam_picture(loaded, image).astype(int)
    assert np.abs(picture[..., 0] - picture[..., 2]).max() < 10  # no colour
    out = page(loaded, view(loaded, image), "gradcam", Looking())
    assert out.shape[1] < 700  # one tile
    assert loaded.classes == CLASSES


# Files


def test_goes_on_past_what_cannot_be_read(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(photograph()).save(folder / "a.png")
    Image.fromarray(photograph(80, 40)).save(folder / "sub" / "a.jpg")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "empty.jpg").write_bytes(b"")
    inputs = find_inputs([str(folder), str(tmp_path / "missing.jpg")], out=out)
    looking = Looking(query=(70, 3), class_name="cat")
    summary = look_into_files(build("halvit"), inputs, out, ["attention", "gradcam"], looking)
    assert sorted(path.relative_to(out).as_posix() for path in summary.pages) == [
        "in/sub/a_attention.png",
        "in/sub/a_gradcam.png",
    ]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "in/sub/a_attention.png",
        "in/sub/a_gradcam.png",
    ]
    assert all(np.asarray(Image.open(path)).ndim == 3 for path in summary.pages)
    problems = "\n".join(summary.problems)
    assert len(summary.problems) == 4
    for file in (
        "a.png: --query 70,3: the model does not see",
        "broken.png",
        "empty.jpg",
        "missing.jpg",
    ):
        assert file in problems


def test_what_no_image_could_make_good_ends_the_run(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    out = tmp_path / "out"
    inputs = find_inputs([str(tmp_path / "a.png")], out=out)
    with pytest.raises(UserError, match="--layers 9"):
        look_into_files(build("halvit"), inputs, out, ["features"], Looking(layers=(9,)))
    assert not list(out.rglob("*.png"))
