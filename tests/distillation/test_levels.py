"""The options of the levels, and which layers they compare."""

import pytest
import torch

from halvit_mm.distillation.levels import (
    Attention,
    Hidden,
    Levels,
    Prediction,
    check_pair,
    choose_pairs,
)
from halvit_mm.errors import UserError
from halvit_mm.layers import LayerFeatures


def test_defaults_are_the_published_weights():
    levels = Levels.parse(dict(prediction={}, attention={}, hidden={}))
    assert levels.prediction == Prediction(weight=1.0, form="cross_entropy", temperature=1.0)
    assert levels.attention == Attention(weight=1.0, layers=None, heads=1)
    assert levels.hidden == Hidden(weight=0.1, layers=None)
    assert list(levels.of_layers) == ["attention", "hidden"]
    assert Levels.parse(dict(prediction={}, attention=None)).of_layers == {}


@pytest.mark.parametrize(
    ("student", "pairs"),
    [
        (12, ((1, 1), (3, 3), (5, 9), (7, 15), (9, 21), (11, 23))),
        (24, ((1, 1), (3, 3), (9, 9), (15, 15), (21, 21), (23, 23))),
    ],
)
@pytest.mark.parametrize("level", [Attention(), Hidden()])
def test_published_pairs_are_the_default(student, pairs, level):
    chosen = choose_pairs("x", level, student=("MiniSwin", student), teacher=("MiniSwin", 24))
    assert chosen == pairs


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (("MiniSwin", 6), ("MiniSwin", 24)),
        (("MiniSwin", 12), ("MiniSwin", 12)),
        (("MiniDeiT", 12), ("MiniSwin", 24)),
    ],
)
def test_nothing_is_published_for_others(student, teacher):
    with pytest.raises(UserError) as error:
        choose_pairs("hidden", Hidden(), student=student, teacher=teacher)
    assert str(error.value) == (
        f"model.distillation.hidden.layers is not set and nothing is published for a {student[0]} "
        f"of {student[1]} layers beside a MiniSwin of {teacher[1]}: name pairs of (student's "
        "layer, teacher's layer), counted from 0"
    )


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([(0, 1), (6, 1)], r"layers has \(6, 1\): the student's MiniSwin has the layers 0 to 5"),
        ([(0, 12)], r"layers has \(0, 12\): the teacher's HaLViT has the layers 0 to 11"),
        ([(-1, 3)], r"layers has \(-1, 3\): the student's MiniSwin has the layers 0 to 5"),
        ([1, 3], r"layers=\[1, 3\]: write pairs of"),
        ([(1, 2, 3)], r"layers=\[\(1, 2, 3\)\]: write pairs of"),
        ([], r"layers=\[\]: write pairs of"),
    ],
)
def test_pairs_that_are_none(layers, message):
    level = Attention(layers=layers)
    with pytest.raises(UserError, match=message):
        choose_pairs("attention", level, student=("MiniSwin", 6), teacher=("HaLViT", 12))


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        (dict(), r"distillation has the levels \[\]: choose among"),
        (dict(prediction=None), r"distillation has the levels \['prediction'\]: choose among"),
        (dict(logits={}), r"levels \['logits'\]: choose among \('prediction', 'attention', 'hid"),
        (dict(prediction=dict(form="soft")), "distillation.prediction.form='soft' is unknown"),
        (dict(prediction=dict(temperature=0)), "prediction.temperature=0 must be above 0"),
        (dict(prediction=dict(weight=0)), "prediction.weight=0 must be above 0: leave the level"),
        (dict(hidden=dict(weight=-1)), "hidden.weight=-1 must be above 0"),
        (dict(attention=dict(heads=0)), "attention.heads=0 must be 1 or more"),
        (dict(attention=dict(layer=[])), "unexpected keyword argument 'layer'"),
    ],
)
def test_wrong_options(distillation, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Levels.parse(distillation)


def features(windows: int, tokens: int, width: int, images: int = 1) -> LayerFeatures:
    qkv = tuple(torch.zeros(windows, tokens, width) for _ in range(3))
    return LayerFeatures(qkv, torch.zeros(images, windows * tokens // images, width))


def test_layers_of_different_windows():
    student, teacher = features(4, 16, 8), features(1, 64, 12)
    with pytest.raises(UserError) as error:
        check_pair("attention", Attention(), (1, 2), student, teacher, (32, 48))
    assert str(error.value) == (
        "model.distillation.attention: layer 1 of the student and layer 2 of the teacher have "
        "other windows, 4 × 16 × 8 and 1 × 64 × 12 (windows × tokens × channels), for images of "
        "32 × 48 pixels: pair layers of one resolution and window, or leave the level out"
    )
    # As many tokens altogether: the hidden level does not know of windows.
    check_pair("hidden", Hidden(), (1, 2), student, teacher, (32, 48))


def test_layers_of_different_resolutions():
    with pytest.raises(UserError, match=r"other tokens, 1 × 64 × 8 and 1 × 16 × 12 \(images × "):
        check_pair("hidden", Hidden(), (0, 4), features(4, 16, 8), features(1, 16, 12), (32, 32))


def test_relation_heads_divide_both_widths():
    pair = features(4, 16, 8), features(4, 16, 12)
    check_pair("attention", Attention(heads=4), (0, 0), *pair, (32, 32))
    with pytest.raises(UserError, match="heads=8 does not divide the width 12; choose"):
        check_pair("attention", Attention(heads=8), (0, 0), *pair, (32, 32))
