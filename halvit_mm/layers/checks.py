"""Refusing options and inputs that do not fit, in one sentence that says what would.

Options raise ``ValueError``. Inputs raise ``TypeError`` where they are no tensors or hold the wrong
type of number, and ``ValueError`` where their shape is wrong. Inputs are looked at where operators
just run; compilers, exporters and transforms report in their own words.
"""

import math
from collections.abc import Collection
from numbers import Integral, Real
from reprlib import repr as short
from typing import Any

import torch
from torch import Tensor

from .linear import runs_as_written
from .sizes import Size


def is_whole(value: Any) -> bool:
    """Whether it is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_whole(*, least: int = 1, most: int | None = None, **options: Any) -> None:
    """Refuses what is no whole number from ``least`` to ``most``.

    Args:
        options: Values by the names of the options.

    Raises:
        ValueError: A value is something else.
    """
    for name, value in options.items():
        if not is_whole(value) or value < least or (most is not None and value > most):
            upwards = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{name}={short(value)} is unknown: choose a whole number {upwards}")


def check_number(
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    **options: Any,
) -> None:
    """Refuses what is no finite number, not above ``above``, less than ``least`` or too large.

    Args:
        options: Values by the names of the options.

    Raises:
        ValueError: A value is something else.
    """
    for name, value in options.items():
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value <= above or not least <= value <= most:
            bounds = (
                *([f"above {above}"] if above > -math.inf else []),
                *([f"of at least {least}"] if least > -math.inf else []),
                *([f"of at most {most}"] if most < math.inf else []),
            )
            wanted = " and ".join(bounds) or "that is finite"
            raise ValueError(f"{name}={short(value)} is unknown: choose a number {wanted}")


def check_flags(**options: Any) -> None:
    """Refuses what is neither True nor False, such as the word ``"False"``, which would be true.

    Raises:
        ValueError: A value is something else.
    """
    for name, value in options.items():
        if not isinstance(value, int) or value not in (0, 1):
            raise ValueError(f"{name}={short(value)} is unknown: choose True or False")


def check_parts(parts: Collection[str], **options: Any) -> None:
    """Refuses what is no collection of some of ``parts``.

    Raises:
        ValueError: A value is something else.
    """
    for name, value in options.items():
        named = isinstance(value, Collection) and not isinstance(value, str)
        if not named or not all(part in parts for part in value):
            raise ValueError(f"{name}={short(value)} is unknown: choose a subset of {tuple(parts)}")


def check_sides(*, least: int = 1, **sizes: Any) -> None:
    """Refuses what is no pair of whole numbers, height and width, of at least ``least``.

    Args:
        sizes: Values by their names.

    Raises:
        ValueError: A value is something else.
    """
    if not runs_as_written():
        return  # compilers have symbols for numbers
    for name, size in sizes.items():
        pair = isinstance(size, (tuple, list)) and len(size) == 2
        if not pair or not all(is_whole(side) and side >= least for side in size):
            raise ValueError(
                f"{name}={short(size)} is unknown: choose two whole numbers of at least {least}, "
                "height and width"
            )


def check_maps(x: Any, channels: int, weight: Any = None, *, what: str = "maps") -> None:
    """Refuses what are no maps (B, channels, H, W) with sides of at least 1.

    Args:
        x: The maps.
        channels: Channels that they must have.
        weight: The convolution's weight (out, in, h, w) that takes them; its type must be theirs.
        what: What they are called.

    Raises:
        TypeError: They are no tensor, or their numbers do not fit the weight's.
        ValueError: Their shape is wrong.
    """
    if not runs_as_written():
        return
    _check_tensor(x, what)
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape[2:]:
        raise ValueError(
            f"{what} of shape {tuple(x.shape)} do not fit: they must be (B, {channels}, height, "
            "width), with sides of at least 1"
        )
    # Where weights are sharded, or of a type of their own, who did so takes care of types.
    if type(weight) in (Tensor, torch.nn.Parameter) and weight.ndim == 4:
        _check_dtype(x, weight, what)


def check_tokens(x: Any, dim: int, size: Size | None = None, *, class_token: bool = False) -> None:
    """Refuses what are no tokens (B, N, dim).

    Args:
        x: The tokens.
        dim: Width that they must have.
        size: Height and width of their map, which say what N must be; None if it may be anything.
        class_token: Allows one more in front.

    Raises:
        TypeError: They are no tensor of floating-point numbers.
        ValueError: Their shape is wrong.
    """
    if not runs_as_written():
        return
    _check_tensor(x, "tokens")
    fits = x.ndim == 3 and x.shape[2] == dim
    if fits and size is not None:
        fits = 0 <= x.shape[1] - size[0] * size[1] <= class_token
    if not fits:
        wanted = f"(B, N, {dim})" if size is None else f"(B, {size[0]} · {size[1]}, {dim})"
        extra = ", or one more in front" if class_token else ""
        raise ValueError(
            f"tokens of shape {tuple(x.shape)} do not fit: they must be {wanted}{extra}"
        )


def check_shape(x: Any, *shape: int | None, what: str = "a tensor") -> None:
    """Refuses a tensor of another shape.

    Args:
        x: The tensor.
        shape: The lengths that it must have; None where any will do.
        what: What it is called.

    Raises:
        TypeError: It is no tensor.
        ValueError: Its shape is wrong.
    """
    if not runs_as_written():
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} must be a tensor, not {type(x).__name__}")
    right = x.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(x.shape, shape, strict=True)
    )
    if not right:
        wanted = ", ".join("·" if want is None else str(want) for want in shape)
        raise ValueError(f"{what} of shape {tuple(x.shape)} does not fit: it must be ({wanted})")


def _check_tensor(x: Any, what: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} must be one tensor, not {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"{what} of {x.dtype} do not fit: convert them by .to() to the type of the weights"
        )


def _check_dtype(x: Tensor, weight: Tensor, what: str) -> None:
    if x.dtype == weight.dtype:
        return
    device = x.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    # Autocast leaves double precision as it is.
    if not casts or torch.float64 in (x.dtype, weight.dtype):
        raise TypeError(
            f"{what} of {x.dtype} do not fit weights of {weight.dtype}: convert one of them by "
            ".to(), or let torch.autocast do it"
        )
