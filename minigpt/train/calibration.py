"""How far probabilities can be believed: of what is said to be 80 % sure, 80 % should come true.

A bin holds the predictions with a probability in (low, high]: 1 belongs to the last one; 0 to the first.
"""

from dataclasses import dataclass

import numpy as np

BINS = 15  # Guo et al. 2017


@dataclass(frozen=True)
class Bin:
    """A line of the reliability table: predictions with a probability in (low, high]."""

    low: float
    high: float
    count: int
    predicted: float  # mean probability
    observed: float  # share that came true


def binned(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Rows (n, 3 bins): in the bin of each prediction its probability, its outcome and a 1; their sums are a table."""
    probabilities, outcomes = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
    number = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)  # (n,)
    rows = np.zeros((len(probabilities), 3, bins))
    rows[np.arange(len(probabilities)), :, number] = np.stack([probabilities, outcomes, np.ones_like(outcomes)], axis=1)
    return rows.reshape(len(probabilities), 3 * bins)


def reliability(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The predictions (n,) in equal bins from 0 to 1, with the share that came true (n,) in each; no empty bins."""
    predicted, observed, count = binned(probabilities, outcomes, bins).sum(0).reshape(3, bins)
    return [
        Bin(i / bins, (i + 1) / bins, int(count[i]), float(predicted[i] / count[i]), float(observed[i] / count[i]))
        for i in range(bins) if count[i]
    ]  # fmt: skip


def calibration_error(table: list[Bin]) -> float:
    """Expected calibration error of a reliability table (see `expected_error`)."""
    rows = [[line.count * line.predicted, line.count * line.observed, line.count] for line in table]
    return float(expected_error(np.reshape(rows, (-1, 3)).T.ravel()))


def expected_error(sums: np.ndarray) -> np.ndarray:
    """Σ count |observed - predicted| / n over the bins, from the sums (..., 3 bins) of `binned` rows.

    Naeini et al. 2015; Guo et al. 2017, eq. 3.
    """
    predicted, observed, count = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    return np.abs(observed - predicted).sum(-1) / np.maximum(count.sum(-1), 1)
