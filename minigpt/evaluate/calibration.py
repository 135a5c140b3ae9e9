"""Whether a model knows what it knows: of answers given with 80 % confidence, 80 % should be right.

The bins and the table are those of `minigpt.train.calibration`; here the errors get intervals.
"""

import numpy as np

from minigpt.evaluate.intervals import Figure, bootstrap, with_ones
from minigpt.train.calibration import BINS, binned, expected_error


def error_interval(confidences: np.ndarray, right: np.ndarray, seed: int = 0, bins: int = BINS) -> Figure:
    """ECE with its interval. Chance alone keeps it above 0: with few rows per bin it is too high, and the drawn ones
    more so: the interval of percentiles is therefore moved back by that bias."""
    rows = binned(confidences, right, bins)
    found = bootstrap(rows, expected_error, seed, "percentile")
    if found.rows < 2:
        return found
    low, high = (max(0.0, 2 * found.value - x) for x in (found.high, found.low))
    return Figure(found.value, low, high, found.rows)


def brier(confidences: np.ndarray, right: np.ndarray, seed: int = 0) -> Figure:
    """The mean squared distance of confidence and rightness (Brier 1950): 0 is best, "50 %" always gets 0.25."""
    return bootstrap(with_ones((np.asarray(confidences, np.float64) - np.asarray(right, np.float64)) ** 2), seed=seed)
