"""The formulas of reinforcement learning written a second time, as their papers have them: one number after the other.

Nothing here is fast or shared with what is tested; a gradient is a central difference in float64.
"""

import math
from collections.abc import Callable

import numpy as np


def gradient(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a scalar function, like `at`; 0 where `at` is not a number."""
    found = np.zeros(at.shape)
    for place in np.ndindex(at.shape):
        if np.isfinite(at[place]):
            ends = []
            for sign in (1, -1):
                moved = at.astype(np.float64)
                moved[place] += sign * step
                ends.append(function(moved))
            found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


def own_tokens(mask: np.ndarray) -> list[list[int]]:
    """The places of each answer's tokens."""
    return [[t for t, one in enumerate(row) if one] for row in mask]


# ---- advantages ----------------------------------------------------------------------------------------------


def advantages(kind: str, rewards: np.ndarray) -> np.ndarray:
    found = np.zeros(rewards.shape)
    everything = [float(r) for r in rewards.ravel()]
    for g, row in enumerate(rewards):
        for k, r in enumerate(row):
            others = [x for j, x in enumerate(row) if j != k]
            mean, whole = sum(row) / len(row), sum(everything) / len(everything)
            found[g, k] = {
                "group": (r - mean) / (deviation(list(row)) + 1e-4),
                "dr_grpo": r - mean,
                "rloo": r - sum(others) / len(others),
                "batch": (r - whole) / (deviation(everything) + 1e-4),
                "group_batch": (r - mean) / (deviation(everything) + 1e-4),
            }[kind]
    return found


def deviation(numbers: list[float]) -> float:
    mean = sum(numbers) / len(numbers)
    return math.sqrt(sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def token_rewards(scores, mask, log_ratios, ended, coefficient: float, penalty: float) -> np.ndarray:
    found = np.zeros(mask.shape)
    for n, places in enumerate(own_tokens(mask)):
        for t in places:
            found[n, t] = -coefficient * log_ratios[n, t]
        found[n, places[-1]] += scores[n] - (0 if ended[n] else penalty)
    return found


def gae(rewards, values, mask, gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """A_i = Σ_l (γλ)^l δ_{i+l} over the answer's own tokens only."""
    found, targets = np.zeros(mask.shape), np.zeros(mask.shape)
    for n, places in enumerate(own_tokens(mask)):
        r, v = [rewards[n, t] for t in places], [values[n, t] for t in places] + [0.0]
        deltas = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(r))]
        for i, t in enumerate(places):
            found[n, t] = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(r)))
            targets[n, t] = found[n, t] + v[i]
    return found, targets


def whitened(values, mask, centre: bool) -> np.ndarray:
    numbers = [float(values[n, t]) for n, places in enumerate(own_tokens(mask)) for t in places]
    mean, spread = sum(numbers) / len(numbers), deviation(numbers)
    found = np.zeros(mask.shape)
    for n, places in enumerate(own_tokens(mask)):
        for t in places:
            found[n, t] = (values[n, t] - mean) / spread + (0 if centre else mean)
    return found


# ---- policy and critic ---------------------------------------------------------------------------------------


def policy_losses(logprobs, old, advantages, mask, settings, reference, entropy) -> np.ndarray:
    found = np.zeros(mask.shape)
    for n, places in enumerate(own_tokens(mask)):
        steps = [logprobs[n, t] - old[n, t] for t in places]
        whole = math.exp(sum(steps) / len(steps)) if steps else 1.0
        for t, step in zip(places, steps, strict=True):
            ratio = math.exp(step) if settings.ratio == "token" else whole
            a = advantages[n, t]
            near = min(max(ratio, 1 - settings.clip_low), 1 + settings.clip_high)
            free = ratio if settings.delta is None else min(ratio, settings.delta)
            loss = -min(free * a, near * a)
            d = logprobs[n, t] - reference[n, t]
            kl = {"k2": d * d / 2, "k3": math.exp(-d) - 1 + d}
            kl["k3c"] = kl["k3"] * math.exp(step)
            loss += settings.kl_coefficient * kl[settings.kl]
            found[n, t] = loss - settings.entropy_coefficient * entropy[n, t]
    return found


def cispo_losses(logprobs, at, old, advantages, mask, settings) -> np.ndarray:
    """The ratio is that of log-probabilities `at`, which are not moved."""
    found = np.zeros(mask.shape)
    for n, places in enumerate(own_tokens(mask)):
        for t in places:
            ratio = min(math.exp(at[n, t] - old[n, t]), 1 + settings.clip_high)
            found[n, t] = -ratio * advantages[n, t] * logprobs[n, t]
    return found


def token_weights(mask, loss: str, longest: int) -> np.ndarray:
    found, tokens = np.zeros(mask.shape), sum(len(places) for places in own_tokens(mask))
    for n, places in enumerate(own_tokens(mask)):
        for t in places:
            divisor = {"grpo": len(places) * len(mask), "dr_grpo": longest * len(mask)}.get(loss, tokens)
            found[n, t] = 1 / divisor
    return found


def value_losses(values, old, targets, mask, clip: float) -> np.ndarray:
    found = np.zeros(mask.shape)
    for n, places in enumerate(own_tokens(mask)):
        for t in places:
            near = min(max(values[n, t], old[n, t] - clip), old[n, t] + clip)
            found[n, t] = max((values[n, t] - targets[n, t]) ** 2, (near - targets[n, t]) ** 2) / 2
    return found


# ---- preferences, rewards, distillation ----------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def preference(kind: str, policy, reference, lengths, label, baseline: float, s) -> float:
    """Loss of one pair (two numbers each), or of one answer for kto (one number each)."""
    if kind == "kto":
        h = policy - reference
        return (s.desirable_weight * (1 - sigmoid(s.beta * (h - baseline))) if label
                else s.undesirable_weight * (1 - sigmoid(s.beta * (baseline - h))))  # fmt: skip
    w, loser = policy[0] - reference[0], policy[1] - reference[1]
    mean_w, mean_l = policy[0] / lengths[0], policy[1] / lengths[1]
    margin, noise = s.beta * (w - loser), s.label_smoothing
    right, wrong = -math.log(sigmoid(margin)), -math.log(sigmoid(-margin))
    if kind == "orpo":
        odds = math.log(math.exp(mean_w) / (1 - math.exp(mean_w))) - math.log(math.exp(mean_l) / (1 - math.exp(mean_l)))
        return -mean_w - s.beta * math.log(sigmoid(odds))
    return {
        "sigmoid": right,
        "ipo": (w / lengths[0] - loser / lengths[1] - 1 / (2 * s.beta)) ** 2,
        "hinge": max(0.0, 1 - margin),
        "cdpo": (1 - noise) * right + noise * wrong,
        "robust": ((1 - noise) * right - noise * wrong) / (1 - 2 * noise),
        "simpo": -math.log(sigmoid(s.beta * (mean_w - mean_l) - s.target_margin)),
        "apo_zero": 1 - sigmoid(s.beta * w) + sigmoid(s.beta * loser),
        "apo_down": sigmoid(s.beta * w) + 1 - sigmoid(margin),
    }[kind]


def pair_loss(chosen: float, rejected: float, margin: float, centering: float) -> float:
    return -math.log(sigmoid(chosen - rejected - margin)) + centering * (chosen + rejected) ** 2


def distance(kind: str, student, teacher, temperature: float, mixture: float) -> float:
    """Of two lists of logits."""
    q, p = ([math.exp(x / temperature) for x in logits] for logits in (student, teacher))
    q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
    m = [mixture * a + (1 - mixture) * b for a, b in zip(p, q, strict=True)]

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

    return {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": mixture * kl(p, m) + (1 - mixture) * kl(q, m)}[kind]


def entropy(logits, temperature: float) -> float:
    p = [math.exp(x / temperature) for x in logits]
    return -sum(x / sum(p) * math.log(x / sum(p)) for x in p)


def calibration_error(probabilities, outcomes, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [i for i, x in enumerate(probabilities) if b / bins < x <= (b + 1) / bins]
        if inside:
            gap = sum(outcomes[i] for i in inside) / len(inside) - sum(probabilities[i] for i in inside) / len(inside)
            total += len(inside) / len(probabilities) * abs(gap)
    return total
