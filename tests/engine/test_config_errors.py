"""Mistakes in configs end in one sentence that names the place."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, OPTIMIZERS

from halvit_mm.engine.config_errors import config_errors, load_config
from halvit_mm.errors import UserError

GOOD = """
model = dict(type="HaLViT", arch=dict(dim=32, depth=2, num_heads=2))
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=0.1))
steps = [dict(a=1), dict(a=2)]
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(GOOD)
    return path


# Reading


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model = (", "syntax error in line 1: '\\(' was never closed"),
        ("model = dict(a=b)", "NameError: name 'b' is not defined"),
        ("_base_ = 'absent.py'", "absent.py: No such file or directory"),
        ("custom_imports = dict(imports=['absent_package'])", "ImportError: .*absent_package"),
    ],
)
def test_a_broken_config_is_named(tmp_path, text, reason):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"config\.py: .*{reason}") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.py: there is no such config"):
        load_config(tmp_path / "absent.py")


def test_options_are_set(config):
    cfg = load_config(
        config, {"model.arch.dim": 64, "steps.1.a": 5, "load_from": "x", "sync_bn": 1}
    )
    assert cfg.model.arch == dict(dim=64, depth=2, num_heads=2)
    assert [step.a for step in cfg.steps] == [1, 5]
    assert cfg.load_from == "x" and cfg.sync_bn == 1


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("modle.arch", "has no modle; did you mean model\\?"),
        ("zzz", "has no zzz; check its spelling"),
        ("steps.7.a", "KeyError"),
        ("model.type.x", "TypeError"),
    ],
)
def test_an_option_that_cannot_be_set_is_named(config, option, reason):
    with pytest.raises(UserError, match=f"--cfg-options {option}: .*{reason}"):
        load_config(config, {option: 1})


# Building


def build(cfg: Config) -> None:
    with config_errors(cfg):
        MODELS.build(dict(type="Sequential", modules=[]) if "model" not in cfg else cfg.model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.arch": "huge"}, "model (HaLViT): arch='huge' is unknown: choose one of"),
        ({"model.arch.num_heads": 5}, "model (HaLViT): dim=32 cannot be divided"),
        ({"model.foo": 1}, "model (HaLViT): TypeError: HaLViT.__init__() got an unexpected"),
        ({"model.type": "HaLVIT"}, "model (HaLVIT): HaLVIT is not in the "),
    ],
)
def test_the_component_and_its_reason_are_named(config, options, message):
    with pytest.raises(UserError) as caught:
        build(load_config(config, options))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_the_innermost_component_is_named():
    inner = dict(type="HaLViT", arch="huge")
    cfg = Config(dict(model=dict(type="InstanceTTAModel", module=inner)))
    with pytest.raises(UserError, match=r"^model\.module \(HaLViT\): arch='huge'"):
        build(cfg)


def test_a_component_in_two_places_is_named_without_a_path():
    layer = dict(type="HaLViT", arch="huge")
    cfg = Config(dict(model=layer, other=layer))
    with pytest.raises(UserError, match=r"^HaLViT: arch='huge'"):
        build(cfg)


def test_what_goes_wrong_outside_of_building_keeps_its_traceback(config):
    with pytest.raises(ValueError, match="in the middle of training"), config_errors(Config()):
        raise ValueError("in the middle of training")


def test_a_bug_while_building_keeps_its_traceback():
    @MODELS.register_module(name="TestBroken", force=True)
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build(Config(dict(model=dict(type="TestBroken"))))


def test_user_errors_pass_unchanged():
    with pytest.raises(UserError, match=r"^as it is$"), config_errors(Config()):
        raise UserError("as it is")


def test_optimisers_count_as_components():
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type="AdamW", lr=-1.0))))
    params = [torch.nn.Parameter(torch.ones(1))]
    place = r"^optim_wrapper\.optimizer \(AdamW\): Invalid learning"
    with pytest.raises(UserError, match=place), config_errors(cfg):
        OPTIMIZERS.build({**cfg.optim_wrapper.optimizer, "params": params})
