"""How far a figure can be trusted: confidence intervals from the rows that it was computed on.

A figure is a function of sums over rows (a mean is the sum of values over the number of them; perplexity, BLEU and F1
are other functions of other sums). So one bootstrap serves all: draw rows with replacement, add them up, apply the
function. Rows are the unit that is independent of the others: documents or questions, not tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
AT_ONCE = 2_000_000  # row counts drawn at a time, so that many rows need no more memory than few

Statistic = Callable[[np.ndarray], np.ndarray]  # sums (..., K) -> figures (...)


@dataclass(frozen=True)
class Figure:
    """A value, the interval that holds the true one in `LEVEL` of all cases, and the number of rows that gave it."""

    value: float
    low: float
    high: float
    rows: int

    def said(self, digits: int = 3) -> str:
        """Such as "0.813 (0.774 to 0.846, 300 rows)"."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f}, {self.rows:,} rows)"


def mean(sums: np.ndarray) -> np.ndarray:
    """The statistic of rows (value, 1), or (weighted value, weight): the mean. 0 for no rows."""
    return sums[..., 0] / np.where(sums[..., 1] == 0, 1, sums[..., 1])


def with_ones(values: np.ndarray) -> np.ndarray:
    """Values (n,) as rows (n, 2) for `mean`."""
    values = np.asarray(values, np.float64)
    return np.stack([values, np.ones_like(values)], axis=1)


def bootstrap(
    rows: np.ndarray, statistic: Statistic = mean, seed: int = 0, method: str = "bca", level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Figure:  # fmt: skip
    """The statistic of the sums of `rows` (n, K) with its bootstrap interval.

    `method` is "percentile" or "bca" (bias-corrected and accelerated: Efron 1987), which is better for skewed figures.
    The same seed gives the same interval. No rows give NaN, and one row an interval of no use: [-inf, inf].
    """
    rows = np.asarray(rows, np.float64)
    n = len(rows)
    if n < 2:
        value = float(statistic(rows.sum(0))) if n else np.nan
        return Figure(value, *((-np.inf, np.inf) if n else (np.nan, np.nan)), n)
    value = float(statistic(rows.sum(0)))
    drawn = statistic(resampled_sums(rows, seed, resamples))  # (resamples,)
    leave_one_out = statistic(rows.sum(0) - rows) if method == "bca" else None  # (n,)
    return Figure(value, *interval(value, drawn, leave_one_out, level), n)


def resampled_sums(rows: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Sums (resamples, K) over n rows drawn with replacement from rows (n, K)."""
    generator, n = np.random.default_rng(seed), len(rows)
    portion = max(1, AT_ONCE // n)
    found = []
    for first in range(0, resamples, portion):
        drawn = generator.integers(0, n, (min(portion, resamples - first), n))  # (R, n)
        drawn += n * np.arange(len(drawn))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)  # (R, n): how often each row
        found.append(counts @ rows)
    return np.concatenate(found)


def interval(
    value: float, drawn: np.ndarray, leave_one_out: np.ndarray | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """(low, high) from figures of resampled rows; corrected as BCa when there are those with one row omitted.

    Without spread, or where the figure is beyond all that were drawn, the percentiles stay as they are.
    """
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if leave_one_out is not None:
        tails = _bca(value, drawn, leave_one_out, tails)
    return tuple(float(x) for x in np.quantile(drawn, tails))


def _bca(value: float, drawn: np.ndarray, leave_one_out: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """The tails at which to read the quantiles (Efron 1987, eq. 2.3; Efron and Tibshirani 1993, chapter 14.3)."""
    normal = NormalDist()
    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2  # ties, as shares have many, count half
    deviations = leave_one_out.mean() - leave_one_out
    spread = float((deviations**2).sum())
    if not 0 < below < 1 or spread < 1e-30:
        return tails
    bias = normal.inv_cdf(float(below))
    acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
    moved = [bias + normal.inv_cdf(float(tail)) for tail in tails]
    return np.array([normal.cdf(bias + z / (1 - acceleration * z)) for z in moved])


def wilson(successes: float, rows: int, level: float = LEVEL) -> Figure:
    """A share with Wilson's score interval (Wilson 1927), which stays right for few rows and near 0 and 1."""
    if not rows:
        return Figure(np.nan, np.nan, np.nan, 0)
    z, share = NormalDist().inv_cdf((1 + level) / 2), successes / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * (share * (1 - share) / rows + z * z / (4 * rows * rows)) ** 0.5
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return Figure(share, low, 1.0 if successes == rows else min(1.0, centre + half), rows)


def jackknife(value: float, leave_one_out: np.ndarray, level: float = LEVEL) -> Figure:
    """A figure for which drawing rows twice would be wrong (how many different n-grams there are): its spread is
    that of the figures (n,) with one row omitted (Efron and Tibshirani 1993, eq. 11.5), and taken as normal."""
    n = len(leave_one_out)
    if n < 2:
        return Figure(value, -np.inf, np.inf, n)
    error = ((n - 1) / n * ((leave_one_out - leave_one_out.mean()) ** 2).sum()) ** 0.5
    z = NormalDist().inv_cdf((1 + level) / 2)
    return Figure(value, value - z * float(error), value + z * float(error), n)
