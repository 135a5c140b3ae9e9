"""Losses and reports of reward models: pairs of answers, labelled steps, and how far probabilities can be believed.

Shapes: B rows, P pairs per row, S answers per row, T tokens, N values.
"""

from dataclasses import dataclass

import numpy as np

from backends.base import Array, Backend


def scores_at(token_scores: Array, ends: Array) -> Array:
    """Scores (B, S) of S answers, or steps, per row: token_scores (B, T) where `ends` (B, S, T) is 1.

    `ends` marks the last real token of each, never padding, and is all 0 where there is none (its score is 0).
    """
    return (ends @ token_scores[..., None])[..., 0]


def pair_losses(
    backend: Backend, chosen: Array, rejected: Array, margin: Array | None = None, centering: float = 0.0
) -> Array:
    """-log σ(r_chosen - r_rejected - m) + c (r_chosen + r_rejected)² per pair; all arrays (B, P).

    Bradley & Terry 1952, as a loss in Ouyang et al. 2022, eq. 1; the margin m says how much better the chosen answer
    is (Touvron et al. 2023, eq. 2); the second term keeps scores around 0 (Eisenstein et al. 2023, section 3).
    """
    gap = chosen - rejected
    losses = -backend.log_sigmoid(gap if margin is None else gap - margin)
    total = chosen + rejected
    return losses + centering * (total * total) if centering else losses


def pair_metrics(backend: Backend, chosen: Array, rejected: Array, weights: Array) -> dict[str, Array]:
    """Weighted means over the pairs (B, P): both scores, their margin, and the share ranked right (`accuracy`)."""
    gap = chosen - rejected
    return {
        "reward_chosen": (chosen * weights).sum(),
        "reward_rejected": (rejected * weights).sum(),
        "margin": (gap * weights).sum(),
        "accuracy": backend.where(gap > 0, weights, 0.0 * weights).sum(),
    }


def step_losses(backend: Backend, scores: Array, labels: Array) -> Array:
    """-log σ(s) for right steps and -log σ(-s) for wrong ones: scores and labels (1 or 0) of one shape.

    The process reward model of Lightman et al. 2023, with one number per step instead of two logits.
    """
    return -backend.log_sigmoid(backend.where(labels > 0, scores, -scores))


@dataclass(frozen=True)
class Bin:
    """A line of the reliability table: predictions with a probability from `low` to `high`."""

    low: float
    high: float
    count: int
    predicted: float  # mean probability
    observed: float  # share that came true


def reliability(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> list[Bin]:
    """The predictions (N,) in equal bins from 0 to 1, with what came true (N,) in each; empty bins are omitted.

    For pairs, the probability is σ(|margin|), from ½ to 1, and the outcome whether the pair is ranked right.
    """
    probabilities, outcomes = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
    places = np.minimum((probabilities * bins).astype(int), bins - 1)
    table = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            means = float(probabilities[inside].mean()), float(outcomes[inside].mean())
            table.append(Bin(place / bins, (place + 1) / bins, int(inside.sum()), *means))
    return table


def calibration_error(table: list[Bin]) -> float:
    """Expected calibration error: Σ count |observed - predicted| / N (Naeini et al. 2015; Guo et al. 2017, eq. 3)."""
    total = sum(line.count for line in table)
    return sum(line.count * abs(line.observed - line.predicted) for line in table) / max(total, 1)


def pair_reliability(margins: np.ndarray, bins: int = 10) -> list[Bin]:
    """`reliability` of the margins r_chosen - r_rejected (N,) of held-out pairs."""
    margins = np.asarray(margins, np.float64)
    return reliability(1.0 / (1.0 + np.exp(-np.abs(margins))), margins > 0, bins)
