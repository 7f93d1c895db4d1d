"""Where measured models come from, and how they are built.

A source is a small value that travels to the process in which its model lives. It imports its
library in :meth:`load`, apart from :meth:`build`, so that the memory of a model can be told from
that of the library.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from ..carried import carried

if TYPE_CHECKING:
    from mmengine.config import Config

#: The repository's configs.
CONFIGS = carried("configs")


class Source(Protocol):
    """What makes a model."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Packages that have to be installed."""

    def load(self) -> None:
        """Imports what :meth:`build` needs."""

    def build(self) -> nn.Module:
        """The model with random weights, on the CPU and in training mode."""


@dataclass(frozen=True)
class FromConfig:
    """The model of a config, which is what users of the config get.

    Attributes:
        path: A file under ``configs/`` of this repository, or ``package::path`` for a config of
            another package of OpenMMLab.
        options: Values by dotted name that replace those of the config.
        twin: Build the dense twin of the backbone: without sharing of weights.
    """

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    twin: bool = False

    @property
    def requires(self) -> tuple[str, ...]:
        """mmengine, and the package of a config that is not of this repository."""
        package, found, _ = self.path.partition("::")
        return ("mmengine", package) if found else ("mmengine",)

    def load(self) -> None:
        """Imports this project and the package that the config's scope names."""
        import_module("halvit_mm")
        import_module(f"{self.config().default_scope}.models")

    def build(self) -> nn.Module:
        """The model as the runner builds it, without the weights that the config asks for."""
        from mmengine.registry import MODELS, DefaultScope

        cfg = self.config()
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            backbone = cfg.model.backbone
            if self.twin:
                backbone.update(MODELS.get(backbone.type).dense_twin)
            if cfg.get("data_preprocessor") is not None:  # as the runner does
                cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
            model = MODELS.build(cfg.model)
        model.init_weights()
        return model

    def config(self) -> "Config":
        """The config with its options; no weights are loaded from files.

        Raises:
            UserError: The file is missing.
        """
        from ..engine.config_errors import load_config

        cfg = load_config(self.path if "::" in self.path else CONFIGS / self.path)
        cfg.merge_from_dict(dict(self.options))
        _forget_checkpoints(cfg.model)
        return cfg


@dataclass(frozen=True)
class FromTimm:
    """A model that ``timm.create_model`` makes."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    requires = ("timm",)

    def load(self) -> None:
        """Imports timm."""
        import_module("timm")

    def build(self) -> nn.Module:
        """The model with random weights, on the CPU and in training mode."""
        import timm

        return timm.create_model(self.name, **self.options)


@dataclass(frozen=True)
class FromTorchvision:
    """A classifier that ``torchvision.models`` makes."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    requires = ("torchvision",)

    def load(self) -> None:
        """Imports torchvision's models."""
        import_module("torchvision.models")

    def build(self) -> nn.Module:
        """The model with random weights, on the CPU and in training mode."""
        import torchvision

        return torchvision.models.get_model(self.name, weights=None, **self.options)


@dataclass(frozen=True)
class Folded:
    """A CNN whose BatchNorms are folded, for inference only."""

    source: Source

    @property
    def requires(self) -> tuple[str, ...]:
        """What the model itself requires."""
        return self.source.requires

    def load(self) -> None:
        """Imports what the model itself needs."""
        self.source.load()

    def build(self) -> nn.Module:
        """The model in evaluation mode, without BatchNorms."""
        from ..layers import fold_batch_norms

        return fold_batch_norms(self.source.build().eval())


def _forget_checkpoints(node: Any) -> None:
    """Takes out of a config what would read weights, from a file or the network."""
    if isinstance(node, dict):
        init = node.get("init_cfg")
        if isinstance(init, dict) and init.get("checkpoint"):
            node["init_cfg"] = None
        for value in node.values():
            _forget_checkpoints(value)
