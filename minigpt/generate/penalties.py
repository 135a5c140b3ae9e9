"""What the text so far, and a user's wish, do to the next token's logits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from minigpt.generate.sampling import Sampling


def penalized(scores: np.ndarray, sampling: "Sampling", seen: Sequence[int], answered: int) -> np.ndarray:
    """`scores` (V,) float64, changed in place as `sampling` wants it; `seen` ends with `answered` tokens of an answer.

    Tokens that may not follow get -inf.
    """
    if sampling.repetition_penalty != 1 and len(seen):
        once, penalty = np.unique(seen), sampling.repetition_penalty
        with np.errstate(over="ignore"):  # Keskar et al. 2019: divide positive, multiply negative logits
            scores[once] = np.where(scores[once] > 0, scores[once] / penalty, scores[once] * penalty)
    if (sampling.frequency_penalty or sampling.presence_penalty) and answered:
        tokens, counts = np.unique(seen[len(seen) - answered :], return_counts=True)  # OpenAI's API reference
        scores[tokens] -= counts * sampling.frequency_penalty + sampling.presence_penalty
    for token, bias in sampling.logit_bias:
        if token < len(scores):
            scores[token] += bias
    if sampling.no_repeat_ngram:
        scores[list(repeating(seen, sampling.no_repeat_ngram))] = -np.inf
    return scores


def repeating(seen: Sequence[int], size: int) -> set[int]:
    """The tokens after which the text's last `size` tokens would be a group that it has (Paulus et al. 2017)."""
    if len(seen) < size:
        return set()
    if size == 1:
        return set(seen)
    last = list(seen[len(seen) - size + 1 :])
    text = np.asarray(seen)
    before = np.lib.stride_tricks.sliding_window_view(text, size - 1)[:-1]  # (places, size - 1)
    return set(text[size - 1 :][(before == last).all(axis=1)].tolist())
