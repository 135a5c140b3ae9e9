"""Advantages: how much better an answer, or one token of it, was than expected.

Everything here is NumPy in float64 on the host, where rewards are born: the numbers are the same on every backend, and
no gradient flows through them.

Shapes: N answers, G prompts, K answers per prompt (N = G K, answers of one prompt side by side), T tokens. `mask`
(N, T) is 1 for the answer's own tokens; what stands at other places is never read, NaN included. Masked places may lie
between an answer's tokens (the text that a tool returned): the next own token follows the one before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minigpt.errors import check_name

LEAST_SPREAD = 1e-4  # added to a standard deviation before dividing by it, as TRL does
EQUAL = 1e-8  # rewards of a group that differ by less are equal


# ---- one number per answer -----------------------------------------------------------------------------------


def _group(rewards: np.ndarray) -> np.ndarray:
    """(r - mean of the group) / (standard deviation of the group) (Shao et al. 2024, GRPO, section 4.1.2)."""
    return _centred(rewards) / (_spread(rewards, axis=1) + LEAST_SPREAD)


def _dr_grpo(rewards: np.ndarray) -> np.ndarray:
    """r - mean of the group: no division, which favours questions that are easy or hard (Liu et al. 2025, Dr. GRPO).

    Its expected gradient is (1 - 1/K) times that of the expected reward.
    """
    return _centred(rewards)


def _rloo(rewards: np.ndarray) -> np.ndarray:
    """r - mean of the group's other answers (Kool et al. 2019; Ahmadian et al. 2024, eq. 9); unbiased."""
    size = rewards.shape[1]
    return _centred(rewards) * (size / max(size - 1, 1))


def _batch(rewards: np.ndarray) -> np.ndarray:
    """(r - mean of the batch) / (standard deviation of the batch) (Hu 2025, REINFORCE++)."""
    return (rewards - rewards.mean()) / (_spread(rewards) + LEAST_SPREAD)


def _group_batch(rewards: np.ndarray) -> np.ndarray:
    """(r - mean of the group) / (standard deviation of the batch): TRL's `scale_rewards="batch"` (Liu et al. 2025)."""
    return _centred(rewards) / (_spread(rewards) + LEAST_SPREAD)


ADVANTAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "group": _group, "dr_grpo": _dr_grpo, "rloo": _rloo, "batch": _batch, "group_batch": _group_batch,
}  # fmt: skip


def answer_advantages(kind: str, rewards: np.ndarray) -> np.ndarray:
    """Advantages (G, K) from the rewards (G, K) of K answers to each of G prompts; `kind` is a name in ADVANTAGES."""
    check_name("kind of advantages", kind, tuple(ADVANTAGES))
    return ADVANTAGES[kind](np.asarray(rewards, np.float64))


def informative(rewards: np.ndarray) -> np.ndarray:
    """(G,) bool: groups of rewards (G, K) that are not all equal. The others have no gradient, and dynamic sampling
    draws them again (Yu et al. 2025, DAPO, section 3.2).
    """
    rewards = np.asarray(rewards, np.float64)
    return rewards.max(axis=1) - rewards.min(axis=1) > EQUAL


# ---- one number per token ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenRewards:
    """How scores of whole answers become rewards of tokens (see token_rewards)."""

    kl_coefficient: float = 0.05
    missing_eos_penalty: float = 0.0  # taken from the score of an answer that was cut off


def token_rewards(
    scores: np.ndarray, mask: np.ndarray, log_ratios: np.ndarray, ended: np.ndarray, settings: TokenRewards
) -> np.ndarray:
    """Rewards (N, T): -β k1 at each of the answer's tokens, and the score (N,) at the last one, which is its end token
    where the answer `ended` (N,) by itself (Ziegler et al. 2019; Stiennon et al. 2020).

    `log_ratios` (N, T) is log π - log π_ref of the sampled tokens, k1's estimate of the divergence. The mean over
    samples may be negative by chance, its expectation is not; an estimate that cannot be negative (k3) would have a
    biased gradient here. Both the score and the penalty for a missing end token belong to the last real token, never
    to the padding after it.
    """
    scores = np.asarray(scores, np.float64) - settings.missing_eos_penalty * ~np.asarray(ended, bool)
    rewards = -settings.kl_coefficient * _own(log_ratios, mask)  # (N, T)
    rows = np.flatnonzero(np.asarray(mask).any(axis=1))
    rewards[rows, last_tokens(mask)[rows]] += scores[rows]
    return rewards


def last_tokens(mask: np.ndarray) -> np.ndarray:
    """(N,) place of each answer's last own token; 0 for an answer without tokens."""
    mask = np.asarray(mask) > 0
    return np.where(mask.any(axis=1), mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1), 0)


def gae(
    rewards: np.ndarray, values: np.ndarray, mask: np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalized advantage estimates and the critic's targets, (N, T) each (Schulman et al. 2016, eq. 16).

    δ_t = r_t + γ V_{t+1} - V_t;  A_t = δ_t + γ λ A_{t+1};  target_t = A_t + V_t. After the last token V and A are 0:
    an answer that was cut off counts as ended. Both are 0 where `mask` is.
    """
    own = np.asarray(mask) > 0
    rewards, values = _own(rewards, mask), _own(values, mask)
    advantages = np.zeros_like(rewards)
    following = value = np.zeros(len(rewards))  # A_{t+1} and V_{t+1}
    for t in reversed(range(rewards.shape[1])):
        found = rewards[:, t] + gamma * value - values[:, t] + gamma * lam * following
        following = np.where(own[:, t], found, following)
        value = np.where(own[:, t], values[:, t], value)
        advantages[:, t] = np.where(own[:, t], found, 0.0)
    return advantages, advantages + values


def discounted(rewards: np.ndarray, mask: np.ndarray, gamma: float) -> np.ndarray:
    """Returns (N, T): R_t = r_t + γ R_{t+1} over the answer's own tokens; 0 elsewhere."""
    return gae(rewards, np.zeros(np.shape(rewards)), mask, gamma, 1.0)[0]


def whitened(values: np.ndarray, mask: np.ndarray, centre: bool = True) -> np.ndarray:
    """`values` (N, T) with variance 1 and, with `centre`, mean 0 over the own tokens of all answers; 0 elsewhere.

    The moments are those of the whole batch: they are taken before it is divided into mini-batches. Rewards are
    whitened without centring, which would add a constant per token and so pay for length (Ziegler et al. 2019).
    """
    own = np.asarray(mask) > 0
    count = max(int(own.sum()), 1)
    values = _own(values, mask)
    mean = values.sum() / count
    variance = (np.where(own, values - mean, 0.0) ** 2).sum() / max(count - 1, 1)
    scaled = (values - mean) / np.sqrt(variance + 1e-8)
    return np.where(own, scaled if centre else scaled + mean, 0.0)


def _own(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N, T) float64 with 0 instead of whatever stands where `mask` is 0."""
    return np.where(np.asarray(mask) > 0, np.asarray(values, np.float64), 0.0)


def _centred(rewards: np.ndarray) -> np.ndarray:
    return rewards - rewards.mean(axis=1, keepdims=True)


def _spread(rewards: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Standard deviation with n - 1 below, over a group or over the batch; 0 for a single number."""
    size = rewards.size if axis is None else rewards.shape[axis]
    deviations = rewards - rewards.mean(axis=axis, keepdims=True)
    return np.sqrt((deviations**2).sum(axis=axis, keepdims=True) / max(size - 1, 1))
