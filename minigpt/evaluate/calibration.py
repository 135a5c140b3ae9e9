"""Whether a model knows what it knows: of answers given with 80 % confidence, 80 % should be right."""

from dataclasses import dataclass

import numpy as np

from minigpt.evaluate.intervals import Figure, bootstrap, wilson, with_ones

BINS = 15  # Guo et al. 2017


@dataclass(frozen=True)
class Bin:
    """Answers with a confidence in (low, high]: their mean confidence and the share that was right."""

    low: float
    high: float
    confidence: float
    accuracy: Figure


def calibration_rows(confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Rows (n, 3 bins) for `expected_error`: in the bin of each answer its confidence, rightness and a 1."""
    confidences, right = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    number = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)  # (n,): bins are (low, high]
    rows = np.zeros((len(confidences), 3, bins))
    rows[np.arange(len(confidences)), :, number] = np.stack([confidences, right, np.ones_like(right)], axis=1)
    return rows.reshape(len(confidences), 3 * bins)


def expected_error(sums: np.ndarray) -> np.ndarray:
    """The expected calibration error from sums (..., 3 bins): Σ |right - confidence| / n (Guo et al. 2017, eq. 3)."""
    confidence, right, count = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    return np.abs(right - confidence).sum(-1) / np.maximum(count.sum(-1), 1)


def calibration_error(confidences: np.ndarray, right: np.ndarray, seed: int = 0, bins: int = BINS) -> Figure:
    """ECE with its interval. Chance alone keeps it above 0: with few rows per bin it is too high, and the drawn ones
    more so: the interval of percentiles is therefore moved back by that bias."""
    rows = calibration_rows(confidences, right, bins)
    found = bootstrap(rows, expected_error, seed, "percentile")
    if found.rows < 2:
        return found
    low, high = (max(0.0, 2 * found.value - x) for x in (found.high, found.low))
    return Figure(found.value, low, high, found.rows)


def reliability(confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The reliability table: a bin for each range of confidences that has answers."""
    rows = calibration_rows(confidences, right, bins).reshape(-1, 3, bins)
    confidence, correct, count = rows.sum(0)
    return [
        Bin(i / bins, (i + 1) / bins, confidence[i] / count[i], wilson(correct[i], int(count[i])))
        for i in range(bins) if count[i]
    ]  # fmt: skip


def brier(confidences: np.ndarray, right: np.ndarray, seed: int = 0) -> Figure:
    """The mean squared distance of confidence and rightness (Brier 1950): 0 is best, "50 %" always gets 0.25."""
    return bootstrap(with_ones((np.asarray(confidences, np.float64) - np.asarray(right, np.float64)) ** 2), seed=seed)
