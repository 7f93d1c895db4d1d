"""Masks of boxes become masks of the image, without PyTorch."""

import numpy as np


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float = 0.5
) -> np.ndarray:
    """Lays each object's mask over its box, as mmdet does after Mask R-CNN.

    Probabilities are interpolated linearly between the centres of the mask's cells and fall to zero
    beyond the outer ones. A pixel belongs to the object where its centre reaches the threshold.

    Args:
        masks: (N, h, w) probabilities on a grid over each box.
        boxes: (N, 4), x1 y1 x2 y2 in pixels of the image.
        size: Height and width of the image.
        threshold: Least probability of the object's pixels.

    Returns:
        (N, height, width) bool.
    """
    pasted = np.zeros((len(masks), *size), dtype=bool)
    for image, mask, (x1, y1, x2, y2) in zip(pasted, masks, boxes.tolist(), strict=True):
        rows, of_rows = _weights(y1, y2, mask.shape[0], size[0])
        columns, of_columns = _weights(x1, x2, mask.shape[1], size[1])
        image[rows, columns] = of_rows @ mask.astype(np.float32) @ of_columns.T >= threshold
    return pasted


def _weights(start: float, end: float, cells: int, length: int) -> tuple[slice, np.ndarray]:
    """How much each of a mask's cells counts for the pixels along one side of its box.

    Args:
        start: Where the box begins.
        end: Where it ends.
        cells: Number of the mask's cells along that side.
        length: Number of the image's pixels.

    Returns:
        The pixels that the box touches and one more on each side; their weights (pixels, cells).
    """
    first = int(max(np.floor(start) - 1, 0))
    last = max(int(min(np.ceil(end) + 1, length)), first)
    centres = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    if end == start:  # mmdet takes the middle of the mask
        position = np.full_like(centres, cells / 2 - 0.5)
    else:
        position = (centres - np.float32(start)) / np.float32(end - start) * cells - 0.5
    distance = np.abs(position[:, None] - np.arange(cells, dtype=np.float32))
    return slice(first, last), np.maximum(1 - distance, 0).astype(np.float32)
