"""The size of a config's images."""

import pytest
from mmengine.config import Config

from halvit_mm.analysis.sizes import image_size, padded

LOAD = dict(type="LoadImageFromFile")
PACK = dict(type="PackInputs")


def config(test: list[dict] | None = None, train: list[dict] | None = None) -> Config:
    loaders = {}
    if test is not None:
        loaders["test_dataloader"] = dict(dataset=dict(pipeline=[LOAD, *test, PACK]))
    if train is not None:
        inner = dict(type="CustomDataset", pipeline=[LOAD, *train, PACK])
        loaders["train_dataloader"] = dict(dataset=dict(type="RepeatDataset", dataset=inner))
    return Config(loaders)


@pytest.mark.parametrize(
    ("cfg", "size"),
    [
        (config(), (1, 2)),
        (config(test=[]), (1, 2)),
        (config(test=[dict(type="Resize", scale_factor=1.0)]), (1, 2)),
        (config(test=[dict(type="Resize", scale=(1333, 800), keep_ratio=True)]), (800, 1333)),
        (config(test=[dict(type="Resize", scale=320)]), (320, 320)),
        (
            config(
                test=[
                    dict(type="ResizeEdge", scale=256, edge="short"),
                    dict(type="CenterCrop", crop_size=224),
                ]
            ),
            (224, 224),
        ),
        (config(test=[], train=[dict(type="RandomCrop", crop_size=32, padding=4)]), (32, 32)),
        (config(train=[dict(type="RandomResizedCrop", scale=(96, 64))]), (64, 96)),
        (config(train=[dict(type="RandomCrop", crop_size=(0.5, 0.5))]), (1, 2)),
        (
            config(
                test=[dict(type="Resize", scale=(320, 320))],
                train=[dict(type="RandomCrop", crop_size=(192, 192))],
            ),
            (320, 320),
        ),
    ],
)
def test_the_last_step_that_tells_counts(cfg, size):
    assert image_size(cfg, (1, 2)) == size


def test_padded():
    assert padded((800, 1333), 32) == (800, 1344)
    assert padded((225, 224), 1) == (225, 224)
