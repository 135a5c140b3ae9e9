"""The numbers of the RL comparisons: 6 answers of up to 6 tokens, pairs, scores, logits.

Answers have unequal lengths, one has a gap (a tool's text), and where they have no token every array holds NaN:
what reads padding is found out.
"""

from dataclasses import replace

import numpy as np

from minigpt.train.policy_losses import PolicySettings
from minigpt.train.preferences import PreferenceSettings

RNG = np.random.default_rng(11)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0],
                 [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]], np.float64)  # fmt: skip
ENDED = np.array([False, True, True, True, False, True])
GROUPS = np.array([[0.1, 1.4, -0.6], [2.0, 0.3, 0.9]])  # rewards of 3 answers to 2 prompts
LONGEST = 8


def single(x: np.ndarray) -> np.ndarray:
    """Float64 numbers that float32 holds exactly: the definitions compute in float64 with what backends get."""
    return x.astype(np.float32).astype(np.float64)


def _drawn(low: float, high: float) -> np.ndarray:
    """(6, 6) numbers, NaN where there is no token."""
    return single(np.where(MASK > 0, RNG.uniform(low, high, MASK.shape), np.nan))


LOGPROBS, VALUES, TARGETS, ADVANTAGES = _drawn(-3, -0.1), _drawn(-1, 1), _drawn(-1, 1), _drawn(-2, 2)
OLD, REFERENCE = single(LOGPROBS + _drawn(-0.6, 0.6)), single(LOGPROBS + _drawn(-1, 1))
OLD_VALUES = single(VALUES + _drawn(-0.5, 0.5))
ENTROPY, TOKEN_REWARDS = _drawn(0.1, 1), _drawn(-1, 1)
LOGITS = single(RNG.normal(0, 2, (5, 7)))
TEACHER = single(RNG.normal(0, 2, (5, 7)))
SCORES = single(RNG.normal(0, 1, (3, 6)))
ENDS = np.zeros((3, 2, 6), np.float32)  # two answers in each of three rows; the last row has only one
ENDS[[0, 0, 1, 1, 2], [0, 1, 0, 1, 0], [1, 4, 2, 5, 3]] = 1
MARGINS = single(RNG.uniform(0, 1, 3))
POLICY = single(RNG.uniform(-12, -2, (2, 3, 2)))  # two rows of three pairs
PAIR_REFERENCE = single(POLICY + RNG.normal(0, 2, POLICY.shape))
LENGTHS = RNG.integers(2, 9, POLICY.shape).astype(np.float64)
LABELS = np.array([[1, 0, 1], [0, 1, 0]], np.float64)
PREFERENCES = PreferenceSettings(0.3, 0.15, 0.6, 1.2, 0.8)
BASELINE = 0.4
PROBABILITIES, OUTCOMES = RNG.uniform(0, 1, 200), RNG.uniform(0, 1, 200) < 0.6
CLIPPED = PolicySettings()

POLICY_CASES: dict[str, PolicySettings] = {
    "PPO": CLIPPED,
    "clip-higher": replace(CLIPPED, clip_high=0.4),
    "two-sided": replace(CLIPPED, delta=1.5),
    "GSPO": replace(CLIPPED, ratio="sequence", clip_low=0.1, clip_high=0.1),
    "k2": replace(CLIPPED, kl="k2", kl_coefficient=0.5),
    "k3": replace(CLIPPED, kl="k3", kl_coefficient=0.5),
    "k3c": replace(CLIPPED, kl="k3c", kl_coefficient=0.5),
    "entropy": replace(CLIPPED, entropy_coefficient=0.3),
}
