"""Which tensors hold numbers that are not finite: NaN or infinite.

Numbers whose squares are infinite, above 1.8e19 in 32 bits, may count as well, which depends on the
device: such gradients would spoil Adam's state, which is made of squares.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor


def any_bad(tensors: Iterable[Tensor]) -> Tensor:
    """Whether one of the tensors holds a number that is not finite: a scalar on their device.

    A GPU is not waited for until the scalar is read.
    """
    tensors = [tensor.detach() for tensor in tensors]
    if not tensors:
        return torch.tensor(False)
    # On a CPU it takes a twentieth of the time of isfinite() or of largest values.
    norms = torch._foreach_norm(tensors, 2, dtype=_wide(*tensors))
    together = torch.stack([norm.to(tensors[0].device) for norm in norms])
    return together.isfinite().all().logical_not()


def bad_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold a number that is not finite."""
    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and bool(any_bad([tensor]))
    ]


def listed(names: Sequence[str], *, most: int = 5) -> str:
    """The first names, and how many there are beside them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _wide(*tensors: Tensor) -> torch.dtype:
    """What norms are computed in: no less than 32 bits."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
