"""Whether one model is better than another on the same rows, or whether the difference could be chance.

All tests are paired: both models answered the same rows, and what counts is how they differ row by row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from minigpt.evaluate.intervals import LEVEL, RESAMPLES, Statistic, interval, mean, resampled_sums

ALPHA = 0.05
POWER = 0.8
EXACT = 14  # up to so many rows that differ, all ways to swap them are tried instead of some
SWAPS = 10_000
AT_ONCE = 2_000_000  # signs drawn at a time


@dataclass(frozen=True)
class Difference:
    """`second - first` with its interval, the p-value of "they are the same", and the test that gave it.

    `needed` rows would show a true difference of this size in `POWER` of all cases (None: there is none to show).
    """

    first: float
    second: float
    low: float
    high: float
    p: float
    test: str
    rows: int
    needed: int | None

    @property
    def value(self) -> float:
        return self.second - self.first


def compare(
    first: np.ndarray, second: np.ndarray, statistic: Statistic = mean, seed: int = 0, resamples: int = RESAMPLES
) -> Difference:
    """Two models' rows (n, K) of the same questions, and the figure that is a function of their sums.

    Right-or-wrong answers are tested by McNemar's test (mid-p), everything else by paired permutation; the interval is
    the paired bootstrap's. Raises ValueError when the rows are not of the same questions.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired rows have the same shape, not {first.shape} and {second.shape}")
    n, figures = len(first), [float(statistic(rows.sum(0))) for rows in (first, second)]
    low, high = paired_interval(first, second, statistic, seed, resamples)
    shares = statistic is mean and _zeros_and_ones(first) and _zeros_and_ones(second)
    if shares:
        better, worse = (int(((a[:, 0] - b[:, 0]) > 0).sum()) for a, b in ((second, first), (first, second)))
        p, test = mcnemar(better, worse), "McNemar, mid-p"
    else:
        p, test = permutation(first, second, statistic, seed), "paired permutation"
    needed = needed_rows(figures[1] - figures[0], row_spread(first, second, statistic))
    return Difference(*figures, low, high, p, test, n, needed)


def _zeros_and_ones(rows: np.ndarray) -> bool:
    return bool(np.isin(rows[:, 0], (0, 1)).all() and (rows[:, 1] == 1).all())


def paired_interval(
    first: np.ndarray, second: np.ndarray, statistic: Statistic = mean, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The interval of `second - first`: both figures are computed on the same drawn rows (paired bootstrap)."""
    if len(first) < 2:
        return -math.inf, math.inf
    columns, both = first.shape[1], np.concatenate([first, second], axis=1)  # (n, 2 K)

    def difference(sums: np.ndarray) -> np.ndarray:
        return statistic(sums[..., columns:]) - statistic(sums[..., :columns])

    value, drawn = float(difference(both.sum(0))), difference(resampled_sums(both, seed, resamples))
    return interval(value, drawn, difference(both.sum(0) - both))


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, statistic: Statistic = mean, seed: int = 0, resamples: int = RESAMPLES
) -> float:
    """The two-sided p-value of the paired bootstrap: how often drawn rows move the difference by its own size.

    The differences of drawn rows are centred on the observed one, so that they show chance alone (Riezler and Maxwell
    2005), and widened by √(n / (n - 1)), by which the spread of drawn rows is too small.
    """
    if len(first) < 2:
        return 1.0
    both, columns = np.concatenate([first, second], axis=1), first.shape[1]
    drawn = resampled_sums(both, seed, resamples)
    differences = statistic(drawn[:, columns:]) - statistic(drawn[:, :columns])
    value = float(statistic(second.sum(0)) - statistic(first.sum(0)))
    chance = np.abs(differences - value) * (len(first) / (len(first) - 1)) ** 0.5
    return float(1 + (chance >= abs(value) - 1e-12).sum()) / (1 + resamples)


def permutation(
    first: np.ndarray, second: np.ndarray, statistic: Statistic = mean, seed: int = 0, swaps: int = SWAPS
) -> float:
    """The two-sided p-value of the paired permutation test (Fisher 1935): were the models the same, each row's two
    answers could be swapped. All swaps are tried where they are few, else `swaps` drawn ones."""
    differ = (first != second).any(axis=1)
    a, b = first[differ], second[differ]
    same, n = first[~differ].sum(0), len(a)
    if n == 0:
        return 1.0
    total, half = (a + b).sum(0) / 2 + same, (b - a) / 2  # (K,), (n, K)
    observed = abs(float(statistic(total + half.sum(0)) - statistic(total - half.sum(0))))

    def reached(signs: np.ndarray) -> int:  # (R, n) of -1 and 1
        moved = signs @ half
        differences = np.abs(statistic(total + moved) - statistic(total - moved))
        return int((differences >= observed * (1 - 1e-9) - 1e-15).sum())

    if n <= EXACT:
        signs = 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1
        return reached(signs) / 2**n
    generator, portion, count = np.random.default_rng(seed), max(1, AT_ONCE // n), 0
    for begin in range(0, swaps, portion):
        count += reached(2.0 * generator.integers(0, 2, (min(portion, swaps - begin), n)) - 1)
    return (1 + count) / (1 + swaps)


def mcnemar(better: int, worse: int, mid: bool = True) -> float:
    """The two-sided p-value for right-or-wrong rows, from those that only one model got right (McNemar 1947).

    Exact by the binomial distribution; `mid` counts the observed case half, which keeps 5 % better without exceeding
    it in practice (Fagerland, Lydersen and Laake 2013).
    """
    n, fewer = better + worse, min(better, worse)
    if n == 0:
        return 1.0
    point = [math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
             for k in range(fewer + 1)]  # fmt: skip
    p = 2 * sum(point) - (point[-1] if mid else 0.0)
    return min(1.0, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for how many there are (Holm 1979): below 0.05 one may be believed among all of them."""
    order, adjusted, highest = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * float(p_values[i])))
        adjusted[i] = highest
    return adjusted


def row_spread(first: np.ndarray, second: np.ndarray, statistic: Statistic = mean) -> float:
    """The standard deviation of what one row adds to the difference, for any figure (by leaving each row out)."""
    n = len(first)
    if n < 2:
        return math.nan
    without = statistic(second.sum(0) - second) - statistic(first.sum(0) - first)  # (n,)
    return float((n - 1) * without.std(ddof=1))


def needed_rows(difference: float, spread: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Rows with which a two-sided test at `alpha` finds a true difference with probability `power`.

    `spread` is the standard deviation of the rows' differences: n = ((z(1-alpha/2) + z(power)) spread / difference)².
    None when there is no difference, or no spread is known.
    """
    if not difference or not math.isfinite(spread):
        return None
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    return max(2, math.ceil((z * spread / difference) ** 2))


def in_words(name: str, found: Difference, p: float | None = None, higher_is_better: bool = True) -> str:
    """One sentence: which model is ahead, whether it could be chance, and how many rows would settle it.

    `p` is the p-value after Holm's adjustment where several figures were compared.
    """
    p = found.p if p is None else p
    if found.value == 0:
        return f"{name}: the two are equal on these {found.rows:,} rows."
    ahead = "second" if (found.value > 0) == higher_is_better else "first"
    size = f"{name}: the {ahead} is ahead by {abs(found.value):.3g}"
    size += f" ({LEVEL:.0%} interval of second - first: {found.low:.3g} to {found.high:.3g}; p = {p:.2g})"
    if p < ALPHA:
        return f"{size}. Chance alone would hardly do this."
    if found.needed is None:
        return f"{size}. This could be chance."
    if found.needed <= found.rows:
        return f"{size}. This could be chance, although a true difference of this size usually shows on so many rows."
    return f"{size}. This could be chance; if the difference is real, about {found.needed:,} rows would show it."
