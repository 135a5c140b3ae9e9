"""Choosing the next token from logits. On the host in NumPy, so that every backend draws the same tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minigpt.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy. The filters apply in this order: penalty, top-k, top-p, min-p."""

    temperature: float = 0.8
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off
    repetition_penalty: float = 1.0  # 1: off
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "temperature": (0 <= self.temperature < math.inf, "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0"),
            "seed": (0 <= self.seed < 2**63, "0 or more, and less than 2^63"),
        }
        for name, (fine, wanted) in checks.items():
            if not fine:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {getattr(self, name)} is out of range.", f"It must be {wanted}.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0 and self.repetition_penalty == 1


GREEDY = Sampling(temperature=0.0)


def with_seeds(sampling: Sampling, count: int) -> list[Sampling]:
    """The same settings with `count` different seeds, for several answers to one prompt."""
    return [replace(sampling, seed=sampling.seed + i) for i in range(count)]


def probabilities(logits: np.ndarray, sampling: Sampling, seen: Sequence[int]) -> np.ndarray:
    """The distribution (V,) that a token is drawn from, in float64. `seen` are the ids in the text so far."""
    scores = logits.astype(np.float64)
    if sampling.repetition_penalty != 1 and len(seen):
        once, penalty = np.unique(seen), sampling.repetition_penalty
        with np.errstate(over="ignore"):  # Keskar et al. 2019: divide positive, multiply negative logits
            scores[once] = np.where(scores[once] > 0, scores[once] / penalty, scores[once] * penalty)
    if sampling.temperature == 0:
        chosen = np.zeros_like(scores)
        chosen[int(scores.argmax())] = 1.0
        return chosen
    scores = _tempered(np.clip(scores, -1e300, 1e300), sampling.temperature)
    if 0 < sampling.top_k < len(scores):
        kth = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        scores[scores < kth] = -np.inf
    share = softmax(scores)
    if sampling.top_p < 1:  # the fewest tokens that together reach top_p (Holtzman et al. 2020)
        order = np.argsort(-share, kind="stable")
        before = np.cumsum(share[order]) - share[order]
        share[order[before >= sampling.top_p]] = 0.0
    if sampling.min_p > 0:  # at least min_p of the likeliest token's probability (Nguyen et al. 2024)
        share[share < sampling.min_p * share.max()] = 0.0
    return share / share.sum()


def sample(logits: np.ndarray, sampling: Sampling, seen: Sequence[int], position: int) -> int:
    """The next token for logits (V,): a pure function of them, the settings and the position in the answer."""
    share = probabilities(logits, sampling, seen)
    draw = np.random.Generator(np.random.Philox(key=[sampling.seed, position])).random()
    return int(min(np.searchsorted(np.cumsum(share), draw, side="right"), np.flatnonzero(share)[-1]))


def _tempered(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Scores (V,) divided by the temperature; one so low that quotients overflow leaves the likeliest tokens alone."""
    with np.errstate(over="ignore"):
        quotients = scores / temperature
        return quotients if np.isfinite(quotients).all() else (scores - scores.max()) / temperature


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (…, V) for scores (…, V)."""
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
