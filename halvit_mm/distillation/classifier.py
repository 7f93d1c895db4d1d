"""A classifier that learns from a trained one.

Source: Zhang et al., "MiniViT: Compressing Vision Transformers with Weight Multiplexing", CVPR
2022.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from mmpretrain.evaluation.metrics import Accuracy
from mmpretrain.models import ClsHead, ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..backbones.options import pair
from ..errors import UserError
from ..layers import LayerFeatures
from .levels import Levels, Pairs, check_pair, choose_pairs
from .losses import attention_relation_loss, hidden_relation_loss, prediction_loss
from .teacher import Features, Teacher, has_layers

_DEFAULT_SIZE = (224, 224)


@MODELS.register_module()
class DistilledClassifier(ImageClassifier):
    """mmpretrain's classifier, trained to follow a teacher on up to three levels.

    ``L = label_weight · L_label + Σ weight · L_level``, with the losses of
    :mod:`halvit_mm.distillation.losses`, those of attention and hidden states averaged over the
    pairs of layers. As published: prediction, attention and 0.1 · hidden for Mini-Swin, prediction
    alone in the form ``"kl"`` for Mini-DeiT, and no loss on labels for both.

    The teacher is no part of the model. It is loaded, and all layers are paired, before training
    starts; prediction never looks for it. Student and teacher see the same images, mixed ones
    included; where the teacher normalises images otherwise, they are normalised anew for it.

    Args:
        backbone: The student's; for the attention and hidden levels one with ``forward_features``.
        head: A ``ClsHead`` for as many classes as the teacher's.
        teacher: ``dict(config=…, checkpoint=…)``, see :class:`Teacher`.
        distillation: The levels, ``dict(prediction=dict(…), attention=dict(…), hidden=dict(…))``
            with the options of :mod:`halvit_mm.distillation.levels`; a level that is not named or
            None is left out.
        label_weight: Weight of the head's own loss on labels (the papers' α, or 1 − α). With 0, as
            published, images need no labels.
        img_size: Size in pixels (one number or height and width) of the images on which the layers
            are paired before training. Default: that of a backbone which has one, or else 224.
        neck: As in ``ImageClassifier``.
        train_cfg: As in ``ImageClassifier``.
        data_preprocessor: As in ``ImageClassifier``.
        init_cfg: As in ``ImageClassifier``.

    Raises:
        ValueError: An option is unknown or wrong; or nothing would train the head.
    """

    def __init__(
        self,
        *,
        backbone: dict | nn.Module,
        head: dict | nn.Module,
        teacher: dict[str, str],
        distillation: dict[str, dict[str, Any] | None],
        label_weight: float = 0.0,
        img_size: int | Sequence[int] | None = None,
        neck: dict | nn.Module | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            train_cfg=train_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        if not isinstance(self.head, ClsHead):
            raise ValueError(
                f"the head is a {type(self.head).__name__}: distillation needs one with a single "
                "score for each class, such as LinearClsHead"
            )
        self.teacher = Teacher(**teacher)
        self.levels = Levels.parse(distillation)
        self.label_weight = label_weight
        self.img_size = None if img_size is None else pair(img_size)
        if label_weight < 0:
            raise ValueError(f"label_weight={label_weight} must be 0 or more")
        if not label_weight and self.levels.prediction is None:
            raise ValueError(
                "label_weight=0 without the prediction level: nothing would train the head"
            )
        self._pairs: dict[str, Pairs] | None = None  # until all is ready

    def init_weights(self) -> None:
        """Initialises the student and makes the teacher ready; the runner does so at its start."""
        super().init_weights()
        self._prepare()

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Compares the student with the teacher on images (B, C, height, width).

        Returns:
            Scalars: ``loss_label``, ``loss_prediction``, ``loss_attention`` and ``loss_hidden``, as
            far as they have a weight and with it, and what the head says about accuracy.
        """
        if self._pairs is None:
            self._prepare()
        layers = self._layers()
        feats, features = self._student(inputs, layers[0])
        scores, teacher_features = self.teacher(inputs, layers[1])
        losses = self._label_loss(feats, data_samples)
        if (level := self.levels.prediction) is not None:
            loss = prediction_loss(
                self.head(feats), scores, form=level.form, temperature=level.temperature
            )
            losses["loss_prediction"] = level.weight * loss
        for name, level in self.levels.of_layers.items():
            self._check_pairs(name, features, teacher_features, inputs)
            compared = [
                self._compare(name, features[own], teacher_features[other])
                for own, other in self._pairs[name]
            ]
            losses[f"loss_{name}"] = level.weight * torch.stack(compared).mean()
        return losses

    def _compare(self, name: str, student: LayerFeatures, teacher: LayerFeatures) -> Tensor:
        if name == "hidden":
            return hidden_relation_loss(student.hidden, teacher.hidden)
        return attention_relation_loss(student.qkv, teacher.qkv, heads=self.levels.attention.heads)

    def _label_loss(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample]
    ) -> dict[str, Tensor]:
        if self.label_weight:
            losses = self.head.loss(feats, data_samples)
            losses["loss_label"] = self.label_weight * losses.pop("loss")
            return losses
        if not self.head.cal_acc or "gt_score" in data_samples[0]:  # of mixed images
            return {}
        labels = torch.cat([sample.gt_label for sample in data_samples])
        accuracies = Accuracy.calculate(self.head(feats).detach(), labels, topk=self.head.topk)
        return {
            f"accuracy_top-{k}": accuracy
            for k, accuracy in zip(self.head.topk, accuracies, strict=True)
        }

    def _layers(self) -> tuple[set[int], set[int]]:
        """The layers whose features are needed, the student's and the teacher's."""
        pairs = {layers for level in self._pairs.values() for layers in level}
        return {own for own, _ in pairs}, {other for _, other in pairs}

    def _student(self, inputs: Tensor, layers: set[int]) -> tuple[tuple[Tensor, ...], Features]:
        if not layers:
            return self.extract_feat(inputs), {}
        outs, features = self.backbone.forward_features(inputs, layers)
        return (self.neck(outs) if self.with_neck else outs), features

    def _prepare(self) -> None:
        """Loads the teacher and finds out whether the two can be compared.

        Raises:
            UserError: They cannot, or the teacher cannot be loaded.
        """
        if not self.teacher.is_loaded:
            self.teacher.load(self.data_preprocessor)
        backbones = (self.backbone, self.teacher.backbone)
        sizes = (self.img_size, *map(_image_size, backbones), _DEFAULT_SIZE)
        size = next(size for size in sizes if size)
        weight = next(self.parameters())
        channels = next(m.in_channels for m in self.modules() if isinstance(m, nn.Conv2d))
        blank = torch.zeros(1, channels, *size, dtype=weight.dtype, device=weight.device)
        self._check_scores(blank)
        if self.levels.of_layers:
            self.teacher.offer_layers(size)
        self._pairs = {
            name: choose_pairs(
                name,
                level,
                student=self._layered("student", self.backbone, name),
                teacher=self._layered("teacher", self.teacher.backbone, name),
            )
            for name, level in self.levels.of_layers.items()
        }
        layers = self._layers()
        features = self._try_student(blank, layers[0])[1]
        teacher_features = self.teacher(blank, layers[1])[1]
        for name in self.levels.of_layers:
            self._check_pairs(name, features, teacher_features, blank)

    def _layered(self, who: str, backbone: nn.Module, level: str) -> tuple[str, int]:
        """Class and number of layers of a backbone."""
        kind = type(backbone).__name__
        if not has_layers(backbone):
            raise UserError(
                f"model.distillation.{level}: the {who}'s backbone is a {kind}, which offers the "
                f"prediction level only; leave the {level} level out, or take a "
                + (
                    "MiniSwin, MiniDeiT or HaLViT"
                    if who == "student"
                    else "SwinTransformer or VisionTransformer of mmpretrain's"
                )
            )
        return kind, backbone.num_layers

    def _check_scores(self, blank: Tensor) -> None:
        feats, _ = self._try_student(blank, set())
        classes = self.head(feats).shape[-1]
        try:
            scores, _ = self.teacher(blank)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"model.teacher: {self.teacher.config} cannot look at "
                f"{' × '.join(map(str, blank.shape[1:]))} images (channels, height, width), as "
                f"the student does: {error}"
            ) from error
        if not isinstance(scores, Tensor) or scores.shape != (1, classes):
            found = f"scores for {scores.shape[-1]}" if isinstance(scores, Tensor) else "no scores"
            raise UserError(
                f"model.teacher: {self.teacher.config} makes {found}, the student has {classes} "
                "classes: take a teacher that was trained on the same ones"
            )

    @torch.no_grad()
    def _try_student(self, inputs: Tensor, layers: set[int]) -> tuple[tuple[Tensor, ...], Features]:
        training = self.training
        outs = self.eval()._student(inputs, layers)
        self.train(training)
        return outs

    def _check_pairs(self, name: str, student: Features, teacher: Features, inputs: Tensor) -> None:
        level = self.levels.of_layers[name]
        for layers in self._pairs[name]:
            own, other = student[layers[0]], teacher[layers[1]]
            check_pair(name, level, layers, own, other, inputs.shape[-2:])


def _image_size(backbone: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that a backbone was made for, if it has such a size."""
    if hasattr(backbone, "grid_size"):  # this project's plain transformers
        return tuple(side * backbone.patch_size for side in backbone.grid_size)
    patch_embed = getattr(backbone, "patch_embed", None)  # of mmpretrain
    return getattr(patch_embed, "init_input_size", None)
