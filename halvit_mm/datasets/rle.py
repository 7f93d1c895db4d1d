"""COCO's run-length encoding of masks, read with more care than pycocotools takes.

pycocotools reads past the end of a text that breaks off, and takes counts that do not fill a mask
for whole: the rest of it is whatever was in memory.
"""

from collections.abc import Sequence

import numpy as np

_LONGEST = 6  # letters of a count; five bits each, so that it fits 32 bits as pycocotools needs it


def decode_counts(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes the counts of compressed RLE, of many masks at once.

    Five bits of a count are in each letter's code above ``"0"``, the lowest first; the sixth bit
    says that more follow, and the highest bit of the last letter is the sign. From the fourth
    count of a mask on, the difference from the count before the last is written.

    Args:
        texts: The ``counts`` of N masks.

    Returns:
        The counts of all masks, int64; (N + 1) where those of each mask begin and, at last, where
        those of the last one end; (N) bool, which masks are broken: their counts are no such text.
        A broken mask has no counts here. Counts may be negative.
    """
    letters = [np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8) for text in texts]
    lengths = np.array([len(part) for part in letters], np.int64)
    codes = np.concatenate([np.zeros(0, np.uint8), *letters]).astype(np.int64) - ord("0")
    owner = np.repeat(np.arange(len(texts)), lengths)

    broken = np.zeros(len(texts), bool)
    broken[owner[(codes < 0) | (codes > 63)]] = True
    ends = np.cumsum(lengths)
    last = ends[lengths > 0] - 1
    broken[owner[last[codes[last] & 32 != 0]]] = True  # breaks off
    kept = ~broken[owner]
    codes, owner = codes[kept], owner[kept]

    final = codes & 32 == 0
    starts = np.flatnonzero(np.concatenate([[True], final[:-1]])) if len(codes) else codes
    place = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
    too_long = np.zeros(len(texts), bool)
    too_long[owner[place >= _LONGEST]] = True
    shift = 5 * np.minimum(place, _LONGEST)
    values = np.add.reduceat((codes & 31) << shift, starts) if len(codes) else codes
    negative = codes[final] & 16 != 0
    values -= np.where(negative, np.int64(1) << (shift[final] + 5), 0)

    of = owner[final]
    whole = ~too_long[of]
    values, of = values[whole], of[whole]
    broken |= too_long
    counts = np.bincount(of, minlength=len(texts))
    begins = np.concatenate([[0], np.cumsum(counts)])
    return _undo_differences(values, begins), begins, broken


def _undo_differences(values: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """From the fourth value of each mask on, adds up every other one."""
    place = np.arange(len(values)) - np.repeat(begins[:-1], np.diff(begins))
    counts = values.copy()
    for parity in (0, 1):
        # The first count of a mask starts no sum: the third is written as it is.
        chain = np.flatnonzero((place % 2 == parity) & (place > 0))
        if not len(chain):
            continue
        sums = np.cumsum(values[chain])
        first = place[chain] <= 2
        before = (sums - values[chain])[first]
        lengths = np.diff(np.append(np.flatnonzero(first), len(chain)))
        counts[chain] = sums - np.repeat(before, lengths)
    return counts
