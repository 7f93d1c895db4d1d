"""The distilled classifier: its losses, who learns, and what does not fit."""

import re
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from teachers import POOLING, RESNET, SIDE, SWIN, VIT, make_teacher
from torch import Tensor, nn

from halvit_mm.distillation import (
    attention_relation_loss,
    hidden_relation_loss,
    prediction_loss,
)
from halvit_mm.errors import UserError

CLASSES = 5
MINI_SWIN = dict(
    type="MiniSwin",
    arch=dict(dim=8, depths=(2, 4), num_heads=(2, 2)),
    share=2,
    window_size=4,
)
HALVIT = dict(type="HaLViT", arch=dict(dim=12, depth=2, num_heads=2), img_size=SIDE, patch_size=8)
WIDTHS = dict(MiniSwin=16, HaLViT=12, HalfResNet=256)
PAIRS = [(1, 1), (3, 2), (5, 5)]
ALL = dict(prediction={}, attention=dict(layers=PAIRS), hidden=dict(layers=PAIRS))


def student(teacher: dict[str, str], distillation: dict, backbone: dict, **options) -> nn.Module:
    import mmpretrain.models  # noqa: F401

    head = dict(type="LinearClsHead", num_classes=CLASSES, in_channels=WIDTHS[backbone["type"]])
    pooled = backbone["type"] != "HaLViT"
    model = dict(
        type="DistilledClassifier",
        backbone=backbone,
        neck=POOLING if pooled else None,
        head=dict(head, **options.pop("head", {})),
        teacher=teacher,
        distillation=distillation,
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(Config(dict(model=dict(model, **options))).model)


@pytest.fixture(scope="module")
def swin(tmp_path_factory) -> dict[str, str]:
    return make_teacher(tmp_path_factory.mktemp("swin"), SWIN)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> dict[str, str]:
    return make_teacher(tmp_path_factory.mktemp("resnet"), RESNET)


def images(batch: int = 4, side: int = SIDE) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def samples(batch: int = 4) -> list:
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(i % CLASSES) for i in range(batch)]


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(value for name, value in losses.items() if "loss" in name)


def test_each_loss_is_what_its_level_says(swin):
    """By the loss functions, on features that are asked for here; weights and means over pairs."""
    levels = dict(
        prediction=dict(weight=0.7, form="kl", temperature=2.0),
        attention=dict(weight=3.0, layers=PAIRS, heads=2),
        hidden=dict(weight=0.2, layers=PAIRS[:2]),
    )
    model = student(swin, levels, MINI_SWIN, label_weight=0.4)
    model.init_weights()
    losses = model.loss(images(), samples())
    outs, features = model.backbone.forward_features(images(), range(6))
    scores = model.head(model.neck(outs))
    target, followed = model.teacher(images(), range(6))
    expected = {
        "loss_label": 0.4 * nn.functional.cross_entropy(scores, torch.arange(4)),
        "loss_prediction": 0.7 * prediction_loss(scores, target, form="kl", temperature=2.0),
        "loss_attention": 3.0
        * sum(attention_relation_loss(features[s].qkv, followed[t].qkv, heads=2) for s, t in PAIRS)
        / 3,
        "loss_hidden": 0.2
        * sum(hidden_relation_loss(features[s].hidden, followed[t].hidden) for s, t in PAIRS[:2])
        / 2,
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 1e-4, name
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)


def test_published_pairs_are_compared_by_default(tmp_path):
    """A Mini-Swin of 12 layers beside a Swin of 24, both as the published ones but narrow."""
    arch = dict(embed_dims=4, depths=[2, 2, 18, 2], num_heads=[1, 1, 1, 1])
    teacher = dict(SWIN, arch=arch, patch_size=1, out_indices=(3,))
    options = dict(arch=dict(dim=4, depths=(2, 2, 6, 2), num_heads=(1, 1, 1, 1)), patch_size=1)
    backbone = dict(MINI_SWIN, share=(2, 2, 6, 2), **options)
    model = student(
        make_teacher(tmp_path, teacher), dict(prediction={}, attention={}, hidden={}), backbone,
        head=dict(in_channels=32),
    )  # fmt: skip
    losses = model.loss(images(1), samples(1))
    published = ((1, 1), (3, 3), (5, 9), (7, 15), (9, 21), (11, 23))
    assert model._pairs == dict(attention=published, hidden=published)
    assert losses.keys() == {"loss_prediction", "loss_attention", "loss_hidden"}


@pytest.mark.parametrize("backbone", [MINI_SWIN, HALVIT], ids=lambda b: b["type"])
def test_gradients_reach_the_student_only(tmp_path, backbone):
    """All of it, so that several processes wait for no parameter; the teacher stays as it is."""
    kind, pairs = (SWIN, PAIRS) if backbone is MINI_SWIN else (VIT, [(0, 0), (1, 2)])
    levels = dict(ALL, attention=dict(layers=pairs), hidden=dict(layers=pairs))
    model = student(make_teacher(tmp_path, kind), levels, backbone)
    model.init_weights()
    model.train()
    teacher = model.teacher._model
    before = deepcopy(teacher.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        total(model.loss(images(), samples())).backward()
        optimizer.step()
    without = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    # The bias that Mini-Swin has before the softmax shifts all keys alike.
    assert all(".mix_logits." in name and name.endswith(".bias") for name in without)
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_batch_norms_of_the_teacher_keep_their_statistics(resnet):
    model = student(resnet, dict(prediction={}), MINI_SWIN)
    model.init_weights()
    before = deepcopy(model.teacher._model.state_dict())
    model.train()
    assert model.loss(images(), samples()).keys() == {"loss_prediction"}
    for name, value in model.teacher._model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_model_is_the_student_alone(swin):
    model = student(swin, ALL, MINI_SWIN)
    names = set(model.state_dict())
    parameters = {id(p) for p in model.parameters()}
    model.init_weights()
    assert set(model.state_dict()) == names
    assert {id(p) for p in model.parameters()} == parameters
    assert not [name for name in names if not name.startswith(("backbone.", "head."))]
    teacher = {id(p) for p in model.teacher._model.parameters()}
    assert not teacher & parameters
    copied = deepcopy(model)
    assert copied.teacher is model.teacher
    torch.testing.assert_close(
        total(copied.loss(images(), samples())), total(model.loss(images(), samples()))
    )


def test_a_copy_from_before_loading_is_whole(swin):
    """The moving average is copied before the runner initialises the weights."""
    model = student(swin, ALL, MINI_SWIN)
    copied = deepcopy(model)
    model.init_weights()
    assert copied.loss(images(), samples()).keys() == model.loss(images(), samples()).keys()


def test_prediction_needs_no_teacher(tmp_path):
    gone = dict(config=str(tmp_path / "gone.py"), checkpoint=str(tmp_path / "gone.pth"))
    model = student(gone, ALL, MINI_SWIN).eval()
    (sample,) = model.predict(images(1), samples(1))
    assert sample.pred_score.shape == (CLASSES,)
    assert model(images(1)).shape == (1, CLASSES)
    with pytest.raises(UserError, match=r"gone\.py: there is no such config"):
        model.loss(images(1), samples(1))


@pytest.mark.parametrize("augment", ["Mixup", "CutMix"])
def test_both_see_the_same_mixed_images(swin, monkeypatch, augment):
    """Through the preprocessor, as in training; labels are mixed in the same shares."""
    augments = dict(augments=dict(type=augment, alpha=1.0))
    preprocessor = dict(num_classes=CLASSES, mean=[120.0] * 3, std=[60.0] * 3)
    model = student(
        swin, ALL, MINI_SWIN, label_weight=1.0, train_cfg=augments, data_preprocessor=preprocessor
    )
    model.init_weights()
    seen = {}
    for name, module in (("student", model.backbone), ("teacher", model.teacher.backbone)):
        forward = module.forward_features
        monkeypatch.setattr(
            module,
            "forward_features",
            lambda x, layers, name=name, forward=forward: (
                seen.update({name: x}),
                forward(x, layers),
            )[1],
        )
    raw = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
    torch.manual_seed(0)
    data = model.data_preprocessor(dict(inputs=raw, data_samples=samples()), training=True)
    losses = model.loss(**data)
    # The teacher's classifier has no normalisation, so that it is shown raw values again.
    torch.testing.assert_close(seen["teacher"], seen["student"] * 60 + 120, rtol=1e-5, atol=1e-3)
    assert not torch.allclose(seen["teacher"], raw.float(), atol=1)
    scores = model.head(model.neck(model.backbone(seen["student"])))
    mixed = torch.stack([sample.gt_score for sample in data["data_samples"]])
    assert ((mixed > 0) & (mixed < 1)).any()
    expected = nn.functional.cross_entropy(scores, mixed)
    torch.testing.assert_close(losses["loss_label"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label_weight", [0.0, 0.5])
def test_accuracy_is_reported_as_the_head_does(swin, label_weight):
    head = dict(cal_acc=True, topk=(1, 2))
    model = student(swin, dict(prediction={}), MINI_SWIN, label_weight=label_weight, head=head)
    losses = model.loss(images(), samples())
    expected = model.head.loss(model.extract_feat(images()), samples())
    for name in ("accuracy_top-1", "accuracy_top-2"):
        assert losses[name] == expected[name]
    assert ("loss_label" in losses) == bool(label_weight)


def test_without_a_label_loss_images_need_no_labels(swin):
    from mmpretrain.structures import DataSample

    model = student(swin, ALL, MINI_SWIN)
    assert total(model.loss(images(2), [DataSample(), DataSample()])) > 0


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total(model.loss(x, samples(len(x)))).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_recomputed_activations_change_nothing(swin):
    models = [student(swin, ALL, dict(MINI_SWIN, with_cp=with_cp)) for with_cp in (False, True)]
    plain, recomputed = (gradients(model.train(), images()) for model in models)
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-4, atol=1e-6)


def test_accumulated_batches_are_the_whole_batch(swin):
    """mmengine's optimiser wrapper adds up two halves to the update of the whole."""
    weights = []
    for counts in (1, 2):
        model = student(swin, ALL, MINI_SWIN, label_weight=0.5)
        model.init_weights()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=counts)
        wrapper.initialize_count_status(model, 0, counts)
        parts = zip(images().chunk(counts), (samples()[:2], samples()[2:]), strict=False)
        whole = [(images(), samples())]
        for inputs, labels in whole if counts == 1 else parts:
            with wrapper.optim_context(model):
                wrapper.update_params(model.parse_losses(model.loss(inputs, labels))[0])
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-5, atol=1e-6)


def test_bfloat16(swin):
    """Close to 32 bits; losses and gradients stay in 32."""
    model = student(swin, ALL, MINI_SWIN, label_weight=0.5)
    exact = gradients(model, images())
    expected = model.loss(images(), samples())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.loss(images(), samples())
    total(losses).backward()
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0.1, atol=1e-2)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(model.loss(images(), samples()))
    loss.backward()
    given = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert given.dtype == torch.float32
    exact = torch.cat([value.flatten() for value in exact.values()])
    assert (given - exact).norm() < 0.2 * exact.norm()


BAD = {
    "classes": (
        dict(prediction={}), MINI_SWIN, RESNET, dict(head=dict(num_classes=7)),
        r"model\.teacher: .*teacher\.py makes scores for 5, the student has 7 classes",
    ),
    "teacher without layers": (
        dict(prediction={}, hidden=dict(layers=[(0, 0)])), MINI_SWIN, RESNET, {},
        r"model\.distillation\.hidden: the teacher's backbone is a ResNet, which offers the "
        "prediction level only; leave the hidden level out, or take a SwinTransformer or Vision",
    ),
    "student without layers": (
        dict(prediction={}, attention=dict(layers=[(0, 0)])),
        dict(type="HalfResNet", base_channels=8), SWIN, {},
        r"model\.distillation\.attention: the student's backbone is a HalfResNet, which offers",
    ),
    "no pairs": (
        dict(prediction={}, attention={}), MINI_SWIN, SWIN, {},
        r"attention\.layers is not set and nothing is published for a MiniSwin of 6 layers beside "
        "a MiniSwin of 6: name pairs",
    ),
    "other windows": (
        dict(prediction={}, attention=dict(layers=[(1, 1), (1, 3)])), MINI_SWIN, SWIN, {},
        r"attention: layer 1 of the student and layer 3 of the teacher have other windows, "
        r"4 × 16 × 8 and 1 × 16 × 32 .*images of 32 × 32 pixels",
    ),
    "other tokens": (
        dict(prediction={}, hidden=dict(layers=[(0, 0)])), HALVIT, SWIN, {},
        "hidden: layer 0 of the student and layer 0 of the teacher have other tokens, "
        r"1 × 17 × 12 and 1 × 64 × 16",
    ),
    "other heads": (
        dict(prediction={}, attention=dict(layers=[(1, 1)], heads=3)), MINI_SWIN, SWIN, {},
        "heads=3 does not divide the width 8",
    ),
    "too small": (
        dict(prediction={}), dict(HALVIT, img_size=8), SWIN, {},
        r"model\.teacher: .*teacher\.py cannot look at 3 × 8 × 8 images",
    ),
    "options of the teacher": (
        dict(prediction={}, hidden=dict(layers=[(0, 0)])), MINI_SWIN,
        dict(SWIN, use_abs_pos_embed=True), {}, "the teacher's backbone has use_abs_pos_embed=True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_said_before_training(tmp_path, case):
    distillation, backbone, teacher, options, message = BAD[case]
    model = student(make_teacher(tmp_path, teacher), distillation, backbone, **options)
    with pytest.raises(UserError, match=message):
        model.init_weights()


def test_images_of_another_size_that_do_not_fit(tmp_path):
    """The layers fit at the size they are tried out on, and no longer at the images' own."""
    pairs = dict(attention=dict(layers=[(0, 0)]))
    wide = dict(MINI_SWIN, window_size=8)
    arch = dict(embed_dims=32, depths=[2], num_heads=[2])
    teacher = make_teacher(tmp_path, dict(SWIN, img_size=16, arch=arch, out_indices=(0,)))
    model = student(teacher, dict(prediction={}, **pairs), wide)
    model.init_weights()
    with pytest.raises(UserError, match=r"1 × 64 × 8 and 4 × 16 × 32 .* images of 32 × 32 pixels"):
        model.loss(images(1), samples(1))


@pytest.mark.parametrize(
    ("backbone", "img_size", "size"),
    [
        (MINI_SWIN, None, (SIDE, SIDE)),  # the teacher's
        (dict(HALVIT, img_size=(48, 64)), None, (48, 64)),
        (MINI_SWIN, 64, (64, 64)),
        (MINI_SWIN, (32, 64), (32, 64)),
    ],
)
def test_size_of_the_images_to_pair_layers_on(swin, monkeypatch, backbone, img_size, size):
    model = student(swin, dict(prediction={}), backbone, img_size=img_size)
    shapes = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    model.train()
    model.init_weights()
    assert set(shapes) == {(1, 3, *size)}
    assert all(module.training for module in model.modules())


def test_wrong_options(swin):
    with pytest.raises(ValueError, match="label_weight=0 without the prediction level: nothing"):
        student(swin, dict(hidden=dict(layers=PAIRS)), MINI_SWIN)
    with pytest.raises(ValueError, match="label_weight=-1 must be 0 or more"):
        student(swin, dict(prediction={}), MINI_SWIN, label_weight=-1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'weights'"):
        student(dict(swin, weights="x"), dict(prediction={}), MINI_SWIN)
    head = dict(type="MultiLabelLinearClsHead")
    with pytest.raises(ValueError, match=re.escape("the head is a MultiLabelLinearClsHead: dist")):
        student(swin, dict(prediction={}), MINI_SWIN, head=head)
