"""A teacher's loading, its inputs, and that nothing ever changes it."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from teachers import RESNET, SIDE, SWIN, VIT, build, classifier, make_teacher
from torch import nn

from halvit_mm.distillation import Teacher
from halvit_mm.distillation.teacher import has_layers
from halvit_mm.errors import UserError


def preprocessor(**options) -> nn.Module:
    import mmpretrain.models  # noqa: F401

    return MODELS.build(dict(type="mmpretrain.ClsDataPreprocessor", **options))


def load(teacher: dict[str, str], **normalization) -> Teacher:
    loaded = Teacher(**teacher)
    loaded.load(preprocessor(**normalization))
    return loaded


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [(SWIN, ()), (SWIN, (0, 2)), (VIT, ()), (VIT, (0, 2)), (RESNET, ())],
    ids=["Swin", "Swin's layers", "ViT", "ViT's layers", "ResNet"],
)
def test_scores_are_those_of_the_classifier(tmp_path, backbone, layers):
    """With and without features, which come from another implementation of the backbone."""
    teacher = load(make_teacher(tmp_path, backbone))
    if layers:
        teacher.offer_layers((SIDE, SIDE))
        assert teacher.backbone.num_layers == (6 if backbone is SWIN else 3)
    scores, features = teacher(image().requires_grad_(), layers)
    with torch.no_grad():
        expected = build(classifier(backbone))(image(), mode="tensor")
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert features.keys() == set(layers)
    assert not scores.requires_grad


def test_mean_of_patches_is_normalised_once_more(tmp_path):
    """A ViT of mmpretrain's that averages has a norm behind, which no backbone here has."""
    options = dict(VIT, out_type="avg_featmap")
    teacher = load(make_teacher(tmp_path, options))
    before, _ = teacher(image())
    teacher.offer_layers((SIDE, SIDE))
    after, _ = teacher(image(), (1,))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_backbones_without_layers_stay_what_they_are(tmp_path):
    teacher = load(make_teacher(tmp_path, RESNET))
    teacher.offer_layers((SIDE, SIDE))
    assert not has_layers(teacher.backbone)
    assert type(teacher.backbone).__name__ == "ResNet"


NORMALIZATIONS = {
    "other statistics": dict(mean=[10.0, 20.0, 30.0], std=[50.0, 60.0, 70.0], to_rgb=True),
    "other order": dict(mean=[120, 110, 100], std=[60, 61, 62], to_rgb=False),
    "none": dict(to_rgb=False),
    "none, turned": dict(to_rgb=True),
    "one for all channels": dict(mean=[127.5], std=[128.0], to_rgb=True),
}


@pytest.mark.parametrize(
    ("own", "other"),
    [
        *((own, "other statistics") for own in NORMALIZATIONS),
        ("other statistics", "other order"),
        ("other order", "none, turned"),
        ("none", "one for all channels"),
    ],
)
def test_images_are_normalised_anew(tmp_path, own, other):
    """As if the teacher's own preprocessor had had the raw images."""
    raw = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    model = classifier(RESNET)
    teacher = make_teacher(tmp_path, RESNET, top=f"data_preprocessor = {NORMALIZATIONS[other]}")
    student = preprocessor(**NORMALIZATIONS[own])
    loaded = Teacher(**teacher)
    loaded.load(student)
    scores, _ = loaded(student(dict(inputs=raw))["inputs"])
    normalised = preprocessor(**NORMALIZATIONS[other])(dict(inputs=raw))["inputs"]
    with torch.no_grad():
        expected = build(model)(normalised, mode="tensor")
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


def test_it_stays_frozen_and_shared(tmp_path):
    teacher = load(make_teacher(tmp_path, RESNET))
    model = teacher._model
    before = deepcopy(model.state_dict())
    holder = nn.Module()
    holder.teacher = teacher
    assert not list(holder.modules())[1:]
    assert not holder.state_dict()
    assert deepcopy(holder).teacher is teacher
    holder.train()
    teacher(image())
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_loading_leaves_the_random_state_alone(tmp_path):
    """A run with a teacher draws the same numbers as one without."""
    files = make_teacher(tmp_path, SWIN)
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(3), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    teacher = load(files)
    teacher.offer_layers((SIDE, SIDE))
    teacher(image())
    assert torch.equal(torch.rand(3), expected[0])
    assert np.random.rand() == expected[1]


def test_configs_by_package_name(tmp_path):
    """The weights are written by a model of mmpretrain's own config."""
    path = "mmpretrain::resnet/resnet18_8xb16_cifar10.py"
    from mmengine.config import Config

    cfg = Config.fromstring(f"_base_ = {path!r}", ".py")
    model = build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "resnet.pth")
    teacher = load(dict(config=path, checkpoint=str(tmp_path / "resnet.pth")))
    scores, _ = teacher(image())
    assert scores.shape == (2, 10)


def test_weights_of_another_image_size_are_resampled_as_mmpretrain_does(tmp_path):
    files = make_teacher(tmp_path / "a", VIT)
    other = make_teacher(tmp_path / "b", dict(VIT, img_size=2 * SIDE))
    teacher = load(dict(config=other["config"], checkpoint=files["checkpoint"]))
    before, _ = teacher(image())
    teacher.offer_layers((2 * SIDE, 2 * SIDE))
    assert teacher.backbone.grid_size == (8, 8)
    assert teacher(image(), (2,))[0].shape == before.shape == (2, 5)


def test_a_student_whose_normalisation_is_not_known(tmp_path):
    options = dict(mean=[0.0], std=[1.0], second_mean=[0.0], second_std=[1.0])
    other = MODELS.build(dict(type="mmpretrain.TwoNormDataPreprocessor", **options))
    with pytest.raises(UserError, match="data_preprocessor is a TwoNormDataPreprocessor: dist"):
        Teacher(**make_teacher(tmp_path, RESNET)).load(other)


def test_wrappers_of_other_libraries(tmp_path):
    """mmpretrain's TimmClassifier saves and loads without the prefix that its weights have."""
    from mmpretrain.models import TimmClassifier
    from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

    @MMPRETRAIN_MODELS.register_module(force=True)
    class WrappedClassifier(TimmClassifier):
        def __init__(self, data_preprocessor: dict) -> None:
            super(TimmClassifier, self).__init__(data_preprocessor=data_preprocessor)
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 5))
            self._register_state_dict_hook(self._remove_state_dict_prefix)
            self._register_load_state_dict_pre_hook(self._add_state_dict_prefix)

    preprocessing = dict(type="mmpretrain.ClsDataPreprocessor")
    model = dict(type="WrappedClassifier", data_preprocessor=preprocessing)
    wrapped = WrappedClassifier(preprocessing)
    assert set(wrapped.state_dict()) == {"1.weight", "1.bias"}
    (tmp_path / "wrapped.py").write_text(f"model = {model}\n")
    torch.save(dict(model=wrapped.state_dict()), tmp_path / "wrapped.pth")
    files = dict(config=str(tmp_path / "wrapped.py"), checkpoint=str(tmp_path / "wrapped.pth"))
    teacher = load(files)
    teacher.offer_layers((SIDE, SIDE))
    assert not has_layers(teacher.backbone)
    torch.testing.assert_close(teacher(image())[0], wrapped(image()))
    torch.save(dict(model={"1.bias": wrapped.state_dict()["1.bias"]}), tmp_path / "wrapped.pth")
    with pytest.raises(UserError, match=r"missing model\.1\.weight"):
        load(files)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no config", r"model\.teacher\.config=.*gone\.py: there is no such config"),
        ("unknown package", r"model\.teacher\.config=nowhere::a/b\.py: "),
        ("no model", r"model\.teacher\.config=.*teacher\.py: there is no model"),
        ("unknown backbone", r"model\.teacher\.config=.*teacher\.py: .*Nothing is not in the"),
        ("no checkpoint", r"model\.teacher\.checkpoint=.*gone\.pth: there is no such checkpoint"),
        ("cut off", r"model\.teacher\.checkpoint=.*teacher\.pth: the checkpoint is cut off"),
        ("other classes", r"teacher\.pth: these are not the weights of model\.teacher\.config="),
        ("weights missing", r"not the weights(?s:.*)\n  missing backbone\.conv1\.weight$"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, damage, message):
    files = make_teacher(tmp_path, RESNET)
    config, checkpoint = tmp_path / "teacher.py", tmp_path / "teacher.pth"
    if damage == "no config":
        files["config"] = str(tmp_path / "gone.py")
    elif damage == "unknown package":
        files["config"] = "nowhere::a/b.py"
    elif damage == "no model":
        config.write_text("classes = 3\n")
    elif damage == "unknown backbone":
        config.write_text(config.read_text().replace("'ResNet'", "'Nothing'"))
    elif damage == "no checkpoint":
        files["checkpoint"] = str(tmp_path / "gone.pth")
    elif damage == "cut off":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    elif damage == "other classes":
        config.write_text(config.read_text().replace("num_classes': 5", "num_classes': 6"))
    else:
        weights = torch.load(checkpoint)["state_dict"]
        del weights["backbone.conv1.weight"]
        torch.save(dict(state_dict=weights), checkpoint)
    with pytest.raises(UserError, match=message):
        load(files)
