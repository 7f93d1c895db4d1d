"""The layers of a model whose size follows from the number of classes.

They are found by building the model for one class more: what changes its shape depends on the
classes, whatever the heads are and however they lay out their outputs.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from mmengine.config import Config

from ..errors import UserError
from .reading import StateDict


@dataclass(frozen=True, kw_only=True)
class ClassLayer:
    """A parameter or buffer whose size follows from a number of classes.

    Attributes:
        option: The number's place in the config.
        num_classes: The number.
        axis: The axis whose length follows from it.
        size: The length.
        per_class: By how much one class more makes it longer.
    """

    option: str
    num_classes: int
    axis: int
    size: int
    per_class: int

    def classes_of(self, shape: tuple[int, ...]) -> int | None:
        """The number of classes for which the layer would have another shape, if there is one."""
        if len(shape) <= self.axis:
            return None
        more, rest = divmod(shape[self.axis] - self.size, self.per_class)
        return None if rest else self.num_classes + more


def class_layers(cfg: Config) -> dict[str, ClassLayer]:
    """The layers of a config's model that depend on classes, by their names; weightless and quick.

    A model for test-time augmentation is looked through. There are no layers where the config has
    no model with a backbone.
    """
    from ..analysis.weightless import build_without_weights
    from ..datasets.check_classes import count_classes

    model = cfg.get("model") or {}
    while "module" in model:
        model = model["module"]
    if "backbone" not in model:
        return {}
    cfg = Config(dict(model=model, default_scope=cfg.get("default_scope")))

    def shapes(changes: dict[str, int]) -> dict[str, tuple[int, ...]]:
        changed = deepcopy(cfg)
        changed.merge_from_dict(changes)
        return {k: tuple(v.shape) for k, v in build_without_weights(changed).state_dict().items()}

    before = shapes({})
    layers = {}
    for option, count in count_classes(cfg.model).items():
        try:
            after = shapes({option: count + 1})
        except UserError:  # a head that can have this number only
            continue
        for name, shape in after.items():
            for axis, (size, longer) in enumerate(zip(before[name], shape, strict=True)):
                if longer != size:
                    layers[name] = ClassLayer(
                        option=option,
                        num_classes=count,
                        axis=axis,
                        size=size,
                        per_class=longer - size,
                    )
    return layers


def other_classes(
    layers: Mapping[str, ClassLayer], state_dict: StateDict
) -> dict[str, tuple[int, int]]:
    """Numbers of classes that differ: (the model's, the state dict's), by place in the config."""
    differing = {}
    for name, layer in layers.items():
        if name in state_dict:
            given = layer.classes_of(tuple(state_dict[name].shape))
            if given is not None and given != layer.num_classes:
                differing[layer.option] = (layer.num_classes, given)
    return differing
