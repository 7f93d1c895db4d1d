"""One forward pass without computing: which parameters are read, and how much is multiplied."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from textwrap import shorten
from typing import Any

import torch
import torchvision  # noqa: F401  its operators
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry
from torch.utils.module_tracker import ModuleTracker

from ..errors import UserError

#: What mmdet's own forward pass without post-processing gives to a RoI head.
NUM_BOXES = 1000
NUM_MASKS = 100

#: What a size or a model that does not fit makes a forward pass raise.
_MISFITS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)
#: Parts that run on the feature maps.
_DENSE_HEADS = ("head", "rpn_head", "bbox_head", "mask_head")


def _deform_conv_flops(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor) -> int:
    return conv_flop_count(x.shape, weight.shape, out_val.shape)


#: Floating point operations of an operator, from its arguments and its result.
_FORMULAS = flop_registry | {torch.ops.torchvision.deform_conv2d: _deform_conv_flops}


class OperationCounter(TorchDispatchMode):
    """Counts reads of parameters and multiply-accumulates while the mode is active.

    A read is an operation that computes from a parameter or from a view of it (W, ``W.t()``, a
    slice); it counts the elements of that view, each once however it is broadcast. Making a view
    is no read, nor is a copy of another layout (``W.t().contiguous()``), which stands for the
    weight from then on. Any other operation on a weight (``cat``) reads it; what is computed from
    its result is not followed, so a layer that derives its weight anew from several reads, as
    weight standardisation does, counts each of them.

    Multiply-accumulates are those of convolutions, also deformable ones, and of matrix products,
    among them attention's, by PyTorch's own formulas; biases, norms, activations, resizing and
    pooling count nothing.

    Args:
        module: The module whose parameters are watched, on the meta device.

    Attributes:
        reads: Elements read, by the parameter's name.
        macs: Multiply-accumulates, by the name of the innermost module that was running; ``""`` is
            the module itself.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.reads = {name: 0 for name, _ in module.named_parameters()}
        self.macs: Counter[str] = Counter()
        self._names = {storage_key(param): name for name, param in module.named_parameters()}
        self._copies: list[Tensor] = []  # kept, or another tensor could get the key of one
        self._root = type(module).__name__  # what the tracker calls the outermost module
        self._modules = ModuleTracker()

    def __enter__(self) -> "OperationCounter":
        self._modules.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._modules.__exit__(*error)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is torch.ops.aten.clone.default and (key := storage_key(args[0])) in self._names:
            self._names[storage_key(out)] = self._names[key]
            self._copies.append(out)
            return out
        views = {storage_key(tensor) for tensor in _tensors(out)}
        for tensor in _tensors((args, kwargs)):
            key = storage_key(tensor)
            if key in self._names and key not in views:
                self.reads[self._names[key]] += _distinct(tensor)
        if formula := _FORMULAS.get(func._overloadpacket):
            # Two floating point operations are one multiply-accumulate.
            self.macs[self._innermost()] += formula(*args, **kwargs, out_val=out) // 2
        return out

    def _innermost(self) -> str:
        running = (f"{name}." for name in self._modules.parents)
        inside = [name for name in running if name.startswith(f"{self._root}.")]
        return max(inside, key=len).removeprefix(f"{self._root}.").removesuffix(".")


class Trace:
    """What one image costs in a model on the meta device.

    Heads on proposals get ``NUM_BOXES`` boxes and ``NUM_MASKS`` masks (those of cascades as many as
    boxes); cutting the features of these out of the maps is not counted.

    Args:
        model: A detector or a classifier.
        image: Channels, height and width of the image, padded as the model wants it.

    Attributes:
        parts: The model's children that were run.
        reads: Elements read of the backbone's parameters, by their full name.

    Raises:
        UserError: A part of the model cannot run on such an image, or not on feature maps alone.
    """

    def __init__(self, model: nn.Module, image: tuple[int, int, int]) -> None:
        self.parts: list[str] = []
        self.reads: dict[str, int] = {}
        self._macs: Counter[str] = Counter()
        self._model = model
        self._image = image
        with torch.no_grad():
            maps = self._run("backbone", torch.empty(1, *image, device="meta"))
            if self._has("neck"):
                maps = self._run("neck", maps)
            for head in _DENSE_HEADS:
                if self._has(head):
                    self._run(head, maps)
            if self._has("roi_head"):
                self._run_on_proposals(maps)

    def macs(self, name: str) -> int:
        """Multiply-accumulates that happen in a module, given by its full name, or below it."""
        return sum(macs for inner, macs in self._macs.items() if f"{inner}.".startswith(f"{name}."))

    def _has(self, part: str) -> bool:
        return getattr(self._model, part, None) is not None

    def _run(self, part: str, *inputs: Any) -> Any:
        module = getattr(self._model, part)
        try:
            with OperationCounter(module) as counter:
                out = module(*inputs)
        except _MISFITS as error:
            size = " × ".join(map(str, self._image[1:]))
            raise UserError(
                f"model.{part} ({type(module).__name__}) cannot run on an image of {size} or its "
                f"feature maps: {shorten(str(error), 200, placeholder=' …')}"
            ) from error
        self.parts.append(part)
        for name, macs in counter.macs.items():
            self._macs[f"{part}.{name}".removesuffix(".")] += macs
        if part == "backbone":
            self.reads = {f"{part}.{name}": reads for name, reads in counter.reads.items()}
        return out

    def _run_on_proposals(self, maps: Sequence[Tensor]) -> None:
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        proposals = InstanceData(bboxes=torch.empty(NUM_BOXES, 4, device="meta"))
        meta = dict(img_shape=self._image[1:], scale_factor=(1.0, 1.0))
        with _features_without_values(self._model.roi_head):
            self._run("roi_head", maps, [proposals], [DetDataSample(metainfo=meta)])


@contextmanager
def _features_without_values(roi_head: nn.Module) -> Iterator[None]:
    """Replaces what cuts features out of the maps, as where it cuts depends on values."""
    from mmdet.models.roi_heads.roi_extractors.base_roi_extractor import BaseRoIExtractor

    def cut(extractor: nn.Module, maps: Sequence[Tensor], rois: Tensor, **_: Any) -> Tensor:
        size = extractor.roi_layers[0].output_size
        return maps[0].new_empty(len(rois), extractor.out_channels, *size)

    extractors = [m for m in roi_head.modules() if isinstance(m, BaseRoIExtractor)]
    for extractor in extractors:
        extractor.forward = partial(cut, extractor)
    try:
        yield
    finally:
        for extractor in extractors:
            del extractor.forward


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage_key(tensor: Tensor) -> int:
    """What a tensor and its views share; on the meta device there is no address to compare."""
    return tensor.untyped_storage()._cdata


def _distinct(tensor: Tensor) -> int:
    """Number of elements, those that are broadcast once."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
