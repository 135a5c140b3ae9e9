"""Choosing the next token from logits. On the host in NumPy, so that every backend draws the same tokens."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minigpt.errors import MiniGPTError, UsageError
from minigpt.generate.penalties import penalized


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 is greedy. What changes logits applies in this order: repetition penalty, frequency and presence
    penalty, bias, forbidden n-grams (see `minigpt.generate.penalties`); then temperature, top-k, top-p and min-p.
    """

    temperature: float = 0.8
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off
    repetition_penalty: float = 1.0  # 1: off
    seed: int = 0
    frequency_penalty: float = 0.0  # 0: off; taken off a token's logit for each time that the answer has it
    presence_penalty: float = 0.0  # 0: off; taken off once
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    no_repeat_ngram: int = 0  # 0: off; the text has no group of so many tokens twice

    def __post_init__(self) -> None:
        checks = {
            "temperature": (0 <= self.temperature < math.inf, "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "above 0"),
            "seed": (0 <= self.seed < 2**63, "0 or more, and less than 2^63"),
            "frequency_penalty": (-100 <= self.frequency_penalty <= 100, "between -100 and 100"),
            "presence_penalty": (-100 <= self.presence_penalty <= 100, "between -100 and 100"),
            "logit_bias": (_fine_bias(self.logit_bias), "pairs of a token's number and a bias between -1000 and 1000"),
            "no_repeat_ngram": (self.no_repeat_ngram >= 0, "0 or more"),
        }
        for name, (fine, wanted) in checks.items():
            if not fine:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {getattr(self, name)} is out of range.", f"It must be {wanted}.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, with nothing done to the logits before."""
        return self.temperature == 0 and not self.penalizes

    @property
    def by_temperature(self) -> bool:
        """Whether a token is drawn from softmax(logits / temperature), and nothing else is done to it."""
        filters = self.top_k, self.top_p, self.min_p
        return self.temperature > 0 and filters == (0, 1.0, 0.0) and not self.penalizes

    @property
    def penalizes(self) -> bool:
        """Whether logits are changed by the text so far, or by a bias."""
        return bool(
            self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty or self.logit_bias
            or self.no_repeat_ngram
        )  # fmt: skip


def _fine_bias(pairs: Sequence[tuple[int, float]]) -> bool:
    return all(isinstance(i, int) and i >= 0 and -1000 <= bias <= 1000 for i, bias in pairs)


GREEDY = Sampling(temperature=0.0)


def with_seeds(sampling: Sampling, count: int) -> list[Sampling]:
    """The same settings with `count` different seeds, for several answers to one prompt."""
    return [replace(sampling, seed=sampling.seed + i) for i in range(count)]


def probabilities(
    logits: np.ndarray, sampling: Sampling, seen: Sequence[int], answered: int = 0, allowed: np.ndarray | None = None
) -> np.ndarray:
    """The distribution (V,) that a token is drawn from, in float64.

    `seen` are the ids in the text so far, the last `answered` of them the answer's. Where there is `allowed` (V,)
    bool, other tokens have probability 0. Raises MiniGPTError when the logits are not finite, or no token is left.
    """
    scores = penalized(logits.astype(np.float64), sampling, seen, answered) if sampling.penalizes else None
    scores = logits.astype(np.float64) if scores is None else scores
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    _check(scores)
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


def probabilities_of_rows(logits: np.ndarray, temperatures: Sequence[float]) -> np.ndarray | None:
    """`probabilities` of rows (B, V) that are drawn `by_temperature`, the same bits in a third of the time; None where
    a number is not finite.
    """
    share = logits.astype(np.float64)
    with np.errstate(over="ignore"):
        share /= np.array(temperatures)[:, None]
    if not np.isfinite(share).all():
        return None
    share -= share.max(axis=-1, keepdims=True)
    np.exp(share, out=share)
    for _ in range(2):  # softmax, and once more as after filters
        share /= share.sum(axis=-1, keepdims=True)
    return share


def sample(
    logits: np.ndarray, sampling: Sampling, seen: Sequence[int], position: int, allowed: np.ndarray | None = None,
    share: np.ndarray | None = None,
) -> int:  # fmt: skip
    """The next token for logits (V,): a pure function of them, the settings and the text so far.

    `position` is how many tokens at the end of `seen` are the answer's; `allowed` and errors as in `probabilities`,
    which need not be computed where they are known (`share`).
    """
    share = probabilities(logits, sampling, seen, position, allowed) if share is None else share
    if sampling.temperature == 0:
        return int(share.argmax())
    place = int(np.searchsorted(np.cumsum(share), _draws.one(sampling.seed, position), side="right"))
    return place if place < len(share) else int(np.flatnonzero(share)[-1])  # the sum of all may end below 1


class _Draws(threading.local):
    """Numbers in [0, 1) from NumPy's Philox. Setting its state takes a fifth of the time of making a new one."""

    def __init__(self) -> None:
        bits = np.random.Philox(key=[0, 0])
        self._bits, self._generator, self._first = bits, np.random.Generator(bits), bits.state

    def one(self, seed: int, position: int) -> float:
        """The first number of the generator with this key."""
        self._first["state"]["key"] = np.array([seed, position], np.uint64)
        self._bits.state = self._first
        return self._generator.random()


_draws = _Draws()


def _check(scores: np.ndarray) -> None:
    """Raises MiniGPTError where nothing can be drawn from scores (V,)."""
    best = scores.max()
    if best == -math.inf:
        raise MiniGPTError("No token is left that may follow.", "Omit no_repeat_ngram or the constraint.")
    if math.isnan(best):
        raise MiniGPTError("The model's scores are not numbers.", "Its weights are damaged, or overflow.")


def _tempered(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Scores (V,) divided by the temperature; one so low that quotients overflow leaves the likeliest tokens alone."""
    with np.errstate(over="ignore"):
        quotients = scores / temperature
        return quotients if np.isfinite(quotients).all() else (scores - scores.max()) / temperature


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (…, V) for scores (…, V)."""
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities (…, V) for scores (…, V)."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
