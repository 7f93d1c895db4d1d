"""Strategies of hypothesis for tensors that are laid out oddly, empty, or wrong."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

#: Height or width of an image: small ones, where things vanish, as often as all others.
SIDES = st.one_of(st.integers(1, 40), st.integers(1, 512))
LAYOUTS = ("contiguous", "channels_last", "transposed", "strided", "expanded")
#: Values of no use for nearly every option.
WRONG_VALUES = (
    *(None, "x", "1", "", b"1", 1.5, -1.5, float("nan"), float("inf"), True, 0, -1, -2, 99),
    *((), (1,), [1, 2], (0, 0), (-1, -3), (1.5,), (1.5, 2), (None,), ("x", "y"), (99,), (0, 0, 1)),
    *({}, {"x": 1}, {1, 2}, object(), torch.ones(2), [[1], [2]]),
)


@st.composite
def image_shapes(draw, *, least_batch: int = 0, most_pixels: int = 2**17) -> tuple[int, ...]:
    """Shapes (B, 3, H, W): up to four images, fewer of large ones.

    Without ``--full`` large in one direction at a time: half precision is slow on a CPU.
    """
    height, width = draw(SIDES), draw(SIDES)
    if settings.default.max_examples < 100:
        most_pixels = min(most_pixels, 2**13)
        if height > width:
            height = min(height, most_pixels // width)
        else:
            width = min(width, most_pixels // height)
    most = min(4, max(1, most_pixels // (height * width)))
    return draw(st.integers(min(least_batch, most), most)), 3, height, width


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same maps (B, C, H, W) in another place in memory; expanded ones repeat one pixel."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "strided":
        wide = x.new_zeros(*x.shape[:3], 2 * x.shape[3])
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "expanded":
        return x[:, :, :1, :1].expand(x.shape)
    return x


def refused(call, *words: str) -> str:
    """The one clear sentence that a call is refused by.

    Its kind must be ValueError or TypeError, never what PyTorch says deep inside.
    """
    try:
        call()
    except (ValueError, TypeError) as error:
        sentence = str(error)
    else:
        raise AssertionError("it was taken")
    assert "\n" not in sentence and len(sentence) < 400, sentence
    missing = [word for word in words if word not in sentence]
    assert not missing, f"{missing} not in: {sentence}"
    return sentence
