"""Estimators of the divergence KL(π || π_ref) from sampled tokens, where each may stand, and how hard it pulls.

With d = log π - log π_ref of a token sampled from π (Schulman 2020, "Approximating KL divergence"): k1 = d, k2 = d²/2,
k3 = exp(-d) - 1 + d. As a value, k1 and k3 are unbiased. What is trained is a gradient, and that differs:

| estimator | in the reward            | in the loss                                                   |
|-----------|--------------------------|---------------------------------------------------------------|
| k1        | ∇ KL(π || π_ref)         | 0 on average: refused                                         |
| k2        | biased: refused          | ∇ KL(π || π_ref) of each token's distribution                 |
| k3        | biased: refused          | ∇ KL(π_ref || π): pulls to the reference, but another distance |
| k3c       | not defined              | ∇ KL(π || π_ref) of each token's distribution                 |

In the loss a token's divergence does not count what it does to later tokens; in the reward it does. k3c is k3 times
π/π_old, which mends its gradient also when the answers are of an older policy (DeepSeek-V3.2, 2025, section 3.1).
"""

from dataclasses import dataclass

from backends.base import Array, Backend
from minigpt.errors import UsageError, check_name


@dataclass(frozen=True)
class Estimator:
    """Where an estimator may stand, and why not elsewhere."""

    in_reward: bool
    in_loss: bool
    reason: str


KL_ESTIMATORS = {
    "k1": Estimator(True, False, "its gradient in a loss is 0 on average: it would only add noise"),
    "k2": Estimator(False, True, "as a reward its gradient is not that of the divergence"),
    "k3": Estimator(False, True, "as a reward its gradient is not that of the divergence"),
    "k3c": Estimator(False, True, "its correction is a part of the loss"),
}


def check_kl(kind: str, place: str) -> None:
    """Raises UsageError, with the reason, when estimator `kind` has no business in `place` ("reward" or "loss")."""
    check_name("KL estimator", kind, tuple(KL_ESTIMATORS))
    row = KL_ESTIMATORS[kind]
    if not (row.in_reward if place == "reward" else row.in_loss):
        allowed = [name for name, r in KL_ESTIMATORS.items() if (r.in_reward if place == "reward" else r.in_loss)]
        raise UsageError(f"The KL estimator {kind} cannot be used in the {place}: {row.reason}.",
                         f"Choose {' or '.join(allowed)}.")  # fmt: skip


def kl_estimate(
    backend: Backend, kind: str, logprobs: Array, reference: Array, log_ratio: Array | None = None
) -> Array:
    """The estimate per token, shape of `logprobs`; `log_ratio` = log π - log π_old is read by k3c only."""
    d = logprobs - reference
    if kind == "k1":
        return d
    if kind == "k2":
        return 0.5 * d * d
    k3 = backend.exp(-d) - 1.0 + d
    return k3 * backend.exp(log_ratio) if kind == "k3c" else k3


def adapted_coefficient(coefficient: float, kl: float, target: float, answers: int, horizon: int) -> float:
    """The KL coefficient after a step of so many `answers` whose mean divergence was `kl`:
    β (1 + clip(KL / target - 1, ±0.2) · answers / horizon) (Ziegler et al. 2019, section 2.2).
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * answers / horizon)


def moved_too_far(moved: float, target: float | None) -> bool:
    """Whether the remaining epochs over a rollout are omitted: the policy `moved` (mean KL from the one that sampled)
    more than 1.5 times `target` (OpenAI's Spinning Up); never without a target.
    """
    return target is not None and moved > 1.5 * target
