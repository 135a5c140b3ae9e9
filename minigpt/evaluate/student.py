"""Student's t: means of a handful of runs, for which a bootstrap has too little to draw from (Student 1908)."""

import math
from collections.abc import Sequence

import numpy as np

from minigpt.evaluate.intervals import LEVEL, Figure

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


def cdf(t: float, freedom: int) -> float:
    """P(T <= t) with so many degrees of freedom: with x = √f tan(a) the density is cos(a)^(f - 1), which is smooth."""
    if math.isinf(t):
        return float(t > 0)
    end = math.atan(t / math.sqrt(freedom))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + scale * float((WEIGHTS * np.cos(end / 2 * (NODES + 1)) ** (freedom - 1)).sum()) * end / 2


def quantile(share: float, freedom: int) -> float:
    """The t with P(T <= t) = share, for a share above a half."""
    low, high = 0.0, 1.0
    while cdf(high, freedom) < share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if cdf(middle, freedom) < share else (low, middle)
    return high


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Figure:
    """The mean of some runs with its t interval; of one run it is unbounded."""
    n = len(values)
    if n < 2:
        return Figure(float(values[0]), -math.inf, math.inf, 1) if n else Figure(math.nan, math.nan, math.nan, 0)
    half = quantile((1 + level) / 2, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    middle = float(np.mean(values))
    return Figure(middle, middle - half, middle + half, n)


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[Figure, float]:
    """(second - first with its t interval, two-sided p-value) of runs with the same seeds."""
    apart = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    found = mean_interval(apart)
    if len(apart) < 2:
        return found, math.nan
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    if error == 0:
        return found, float(found.value == 0)
    return found, 2 * (1 - cdf(abs(found.value) / error, len(apart) - 1))
