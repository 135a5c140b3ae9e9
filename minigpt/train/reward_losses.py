"""Losses of reward models, for pairs of answers and for labelled steps, and how far they can be believed.

Shapes: B rows, P pairs per row, S answers per row, T tokens, N values.
"""

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.model.gpt import GPT
from minigpt.train.calibration import Bin, reliability


def answer_scores(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    """Scores (B, S) in float32 at the places that `batch["ends"]` (B, S, T) marks; a token sees its own answer only."""
    hidden = model.hidden(weights, batch["ids"], segments=batch["segments"], dropout_keys=batch.get("dropout"))
    return scores_at(model.scores(weights, hidden), batch["ends"])


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


def pair_reliability(margins: np.ndarray, bins: int = 10) -> list[Bin]:
    """`reliability` of the margins r_chosen - r_rejected (N,) of held-out pairs: the probability is σ(|margin|), from ½
    to 1, and the outcome whether the pair is ranked right.
    """
    margins = np.asarray(margins, np.float64)
    return reliability(1.0 / (1.0 + np.exp(-np.abs(margins))), margins > 0, bins)
