"""How fast something grows, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Samples that follow each other resemble each other. Means of so many stretches hardly do, so that
#: what the fit says of its uncertainty holds.
_STRETCHES = 20


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A straight line through what was measured.

    Attributes:
        slope: Growth in a unit of x.
        low: Lower end of the slope's 95% interval.
        high: Its upper end.
        samples: How many measurements there were.
        mean: Their mean.
    """

    slope: float
    low: float
    high: float
    samples: int
    mean: float


def trend(x: Sequence[float], y: Sequence[float]) -> Trend:
    """Fits a line to measurements ``y (N)`` at ``x (N)``, ascending, by least squares.

    The interval comes from the means of 20 stretches of equal numbers of measurements, or from
    the measurements themselves where there are fewer than 40.

    Raises:
        ValueError: There are fewer than three measurements, or all at one place.
    """
    from scipy import stats

    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.ptp(x) == 0:
        raise ValueError("a trend needs three measurements at least, at different places")
    stretches = _STRETCHES if len(x) >= 2 * _STRETCHES else len(x)
    means = [[part.mean() for part in np.array_split(values, stretches)] for values in (x, y)]
    fit = stats.linregress(*means)
    # What never changes has no deviation to divide by.
    reach = stats.t.ppf(0.975, stretches - 2) * fit.stderr if np.ptp(means[1]) else 0.0
    return Trend(
        slope=float(fit.slope),
        low=float(fit.slope - reach),
        high=float(fit.slope + reach),
        samples=len(x),
        mean=float(y.mean()),
    )
