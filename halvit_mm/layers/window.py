"""Cutting a token map into windows and putting it together again."""

import torch
from torch import Tensor

from .checks import check_shape, check_sides, check_tokens
from .sizes import Size, fit, grid_size, pad_to_grid, surely_equal


def window_partition(x: Tensor, window: Size) -> Tensor:
    """Cuts a map into windows, zero-padding it at the bottom and right where it does not divide.

    Args:
        x: Token map (B, H, W, C).
        window: Height h and width w of a window.

    Returns:
        Tokens (B · ⌈H/h⌉ · ⌈W/w⌉, h · w, C), the windows of one image in row-major order.

    Raises:
        ValueError: ``x`` has other dimensions, or a side is less than 1.
    """
    check_shape(x, None, None, None, None, what="a token map")
    check_sides(window=window, size=x.shape[1:3])
    (batch, height, width, channels), (h, w) = x.shape, window
    rows, columns = grid_size((height, width), window)
    x = pad_to_grid(x, window, channels_last=True)
    x = x.reshape(batch, rows, h, columns, w, channels).transpose(2, 3)
    return x.reshape(batch * rows * columns, h * w, channels)


def window_merge(windows: Tensor, window: Size, size: Size) -> Tensor:
    """Inverse of :func:`window_partition`: (B · nW, h · w, C) → map (B, H, W, C) of ``size``."""
    check_sides(window=window, size=size)
    check_shape(windows, None, window[0] * window[1], None, what="windows")
    (rows, columns), (h, w) = grid_size(size, window), window
    batch, channels = windows.shape[0] // (rows * columns), windows.shape[-1]
    x = windows.reshape(batch, rows, columns, h, w, channels).transpose(2, 3)
    return fit(x.reshape(batch, rows * h, columns * w, channels), size, channels_last=True)


def window_mask(size: Size, window: Size, device: torch.device) -> Tensor | None:
    """Tells real tokens from padding.

    Returns:
        Boolean (nW, h · w), True for the tokens of the map; None if the map divides into windows.
    """
    rows, columns = grid_size(size, window)
    if surely_equal((rows * window[0], columns * window[1]), size):
        return None
    ones = torch.ones(1, *size, 1, dtype=torch.bool, device=device)
    return window_partition(ones, window).squeeze(-1)


class WindowLayout:
    """How the tokens of a map are divided among windows, also of a map shifted in a circle.

    A window larger than the map is cut to the map: padding would only cost time.

    Args:
        size: Height H and width W of the map in tokens.
        window: Height and width of a window; None is one window over the whole map.
        shift: Rows and columns by which the map moves up and left before it is cut; what leaves it
            comes in again on the other side.
        regions: Shift by which tokens are told apart that are neighbours only since the map was
            shifted; they do not attend to each other. Default: ``shift``. Another value makes sense
            only where weights have been trained so (see :class:`~halvit_mm.backbones.MiniSwin`).

    Raises:
        ValueError: A side is less than 1, or a shift negative.
    """

    def __init__(
        self,
        size: Size,
        window: Size | None = None,
        *,
        shift: Size = (0, 0),
        regions: Size | None = None,
    ) -> None:
        check_sides(size=size, window=window or size)
        check_sides(least=0, shift=shift, regions=regions or shift)
        self.size = size
        self.window = tuple(
            w if w < side else side  # not `min`, of which a compiler would make a third size
            for w, side in zip(window or size, size, strict=True)
        )
        rows, columns = grid_size(size, self.window)
        #: Size of the map that its windows make up.
        self.padded = (rows * self.window[0], columns * self.window[1])
        self.shift = shift
        self.regions = shift if regions is None else regions
        # The layers of a stage share a layout, and so its masks, by device and number of images.
        self._masks: dict[tuple[torch.device, int], Tensor | None] = {}
        #: Number of windows in an image.
        self.num_windows = rows * columns
        #: Whether there is one window, as it is.
        self.is_whole = self.window == size and not (any(shift) or any(self.regions))

    def partition(self, x: Tensor) -> Tensor:
        """Tokens (B, H · W, C) → windows (B · nW, h · w, C), row-major within an image."""
        if self.is_whole:
            return x
        check_tokens(x, x.shape[-1], self.size)
        return self._cut(x.unflatten(1, self.size))

    def merge(self, windows: Tensor) -> Tensor:
        """Inverse of :meth:`partition`: (B · nW, h · w, C) → (B, H · W, C)."""
        if self.is_whole:
            return windows
        x = window_merge(windows, self.window, self.padded)
        if any(self.shift):
            x = x.roll(self.shift, (1, 2))
        return fit(x, self.size, channels_last=True).flatten(1, 2)

    def mask(self, x: Tensor) -> Tensor | None:
        """What the tokens of :meth:`partition`'s windows may attend to, for each image of a batch.

        Args:
            x: Tokens (B, H · W, C); B and the device count only.

        Returns:
            Boolean (B · nW, 1, 1 or h · w, h · w), False where a query does not see a key; None if
            every window sees all of its tokens.
        """
        if torch.compiler.is_compiling():  # it finds what it computes twice by itself
            return self._batch_mask(x)
        key = (x.device, len(x))
        if key not in self._masks:
            self._masks[key] = self._batch_mask(x)
        return self._masks[key]

    def _batch_mask(self, x: Tensor) -> Tensor | None:
        mask = self._mask(x.device)
        return None if mask is None else mask.repeat(x.shape[0], 1, 1)[:, None]

    def _mask(self, device: torch.device) -> Tensor | None:
        """Boolean (nW, 1 or h · w, h · w)."""
        mask = None
        if not surely_equal(self.padded, self.size):
            real = torch.ones(1, *self.size, 1, dtype=torch.bool, device=device)
            mask = self._cut(real)[:, None, :, 0]
        if any(self.regions):
            of_rows, of_columns = (
                _regions(*lengths, device)
                for lengths in zip(self.padded, self.window, self.regions, strict=True)
            )
            regions = (3 * of_rows[:, None] + of_columns)[None, :, :, None]
            regions = window_partition(regions, self.window)[..., 0]
            same = regions[:, :, None] == regions[:, None, :]
            # Regions of nothing but padding exist. Padding sees padding there: without any key the
            # softmax, and by it the gradients of real tokens, would not be numbers.
            mask = same if mask is None else same & (mask | ~mask.transpose(1, 2))
        return mask

    def _cut(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) → windows; padding comes before the shift, as in Swin."""
        if any(self.shift):
            x = pad_to_grid(x, self.window, channels_last=True)
            x = x.roll((-self.shift[0], -self.shift[1]), (1, 2))
        return window_partition(x, self.window)


def _regions(length: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Which of three strips a row of a shifted map lies in (length): tokens that were neighbours
    before the shift have the same number."""
    position = torch.arange(length, device=device)
    return (position >= length - window).long() + (position >= length - shift).long()
