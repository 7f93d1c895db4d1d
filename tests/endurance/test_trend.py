"""The slope of what grows, and how sure it is."""

import numpy as np
import pytest

from halvit_mm.endurance.trend import trend


def noise(count: int, *, sway: float = 0.0, seed: int = 0) -> np.ndarray:
    """(count) numbers of deviation 1; with ``sway`` each resembles the one before it."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=count)
    for i in range(1, count):
        values[i] += sway * values[i - 1]
    return values


def test_the_slope_is_that_of_the_line():
    x = np.linspace(2, 5, 100)
    found = trend(x, 7 * x - 3)
    assert found.slope == pytest.approx(7)
    assert (found.low, found.high) == pytest.approx((7, 7))
    assert found.mean == pytest.approx(7 * 3.5 - 3)
    assert found.samples == 100


@pytest.mark.parametrize("sway", [0.0, 0.8])
def test_the_interval_holds_the_slope_19_times_of_20(sway):
    """Also where samples resemble each other, for which least squares alone is too sure."""
    x = np.linspace(0, 1, 400)
    held = 0
    for seed in range(200):
        found = trend(x, 5 * x + noise(400, sway=sway, seed=seed))
        held += found.low <= 5 <= found.high
    assert 176 <= held <= 200  # 190 are expected; 12 and fewer outside happen by chance


def test_few_samples_are_fitted_as_they_are():
    found = trend([0, 1, 2, 3], [0, 1.1, 1.9, 3])
    assert found.slope == pytest.approx(0.98)
    assert found.low < 0.98 < found.high


@pytest.mark.parametrize("x", [[0, 1], [1, 1, 1]])
def test_too_little_has_no_trend(x):
    with pytest.raises(ValueError, match="three measurements"):
        trend(x, x)
