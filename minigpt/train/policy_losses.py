"""Policy gradients: one clipped loss with settings for PPO, GRPO and its relatives, and the estimators of KL.

Shapes: N answers, T tokens. `logprobs` are log π of the sampled tokens under the policy that is trained, at the
temperature they were sampled with; `old` those of the policy that sampled them, `reference` those of the reference
(the last two without a gradient). `mask` is 1 for the answer's own tokens; nothing is read where it is 0.

The loss of a step is (policy_losses · weights) summed, with token_weights of the whole step's answers: its
micro-batches add up to exactly the loss of the whole, whatever the lengths of their answers.
"""

from dataclasses import dataclass

import numpy as np

from backends.base import Array, Backend
from minigpt.errors import UsageError, check_name
from minigpt.train.kl import check_kl, kl_estimate

WIDEST = 20.0  # log-ratios beyond this are cut: the exponential of more would be infinite, its gradient not a number

# loss -> how its tokens are averaged (see token_weights)
POLICY_LOSSES = {"grpo": "answers", "bnpo": "tokens", "dr_grpo": "longest", "dapo": "tokens", "cispo": "tokens"}
RATIOS = ("token", "sequence")


@dataclass(frozen=True)
class PolicySettings:
    """What kind of policy loss, and its numbers."""

    loss: str = "dapo"  # a name in POLICY_LOSSES
    ratio: str = "token"  # or "sequence": the geometric mean over the answer (Zheng et al. 2025, GSPO, eq. 7)
    clip_low: float = 0.2  # ratios below 1 - clip_low gain nothing from a worse token becoming rarer still
    clip_high: float = 0.2  # ratios above 1 + clip_high likewise; more than clip_low is DAPO's "clip-higher"
    delta: float | None = None  # bound of the ratio also where it counts against the token (two-sided clipping)
    kl: str = "k3"  # estimator of the divergence from the reference, a name in kl.KL_ESTIMATORS
    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0

    def check(self) -> None:
        """Raises UsageError for unknown names and for an estimator that has no business in a loss."""
        check_name("policy loss", self.loss, tuple(POLICY_LOSSES))
        check_name("level of the ratio", self.ratio, RATIOS)
        if self.kl_coefficient:
            check_kl(self.kl, "loss")
        if self.delta is not None and self.delta <= 1 + self.clip_high:
            raise UsageError(f"delta = {self.delta:g} is within the clipping (1 + clip_high = {1 + self.clip_high:g}).",
                             "Choose a larger delta, or none.")  # fmt: skip


def policy_losses(
    backend: Backend, logprobs: Array, old: Array, advantages: Array, mask: Array, settings: PolicySettings,
    reference: Array | None = None, entropy: Array | None = None, segments: Array | None = None,
) -> Array:  # fmt: skip
    """Loss per token (N, T), 0 where `mask` is 0; all arrays are (N, T). A row is one answer, or, with `segments`, has
    several.

    grpo, bnpo, dr_grpo, dapo: -min(ρ A, clip(ρ, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7), with ρ = π/π_old
    of the token or of the answer, cut at `delta` in the first term. cispo: -stop(min(ρ, 1 + high)) A log π (MiniMax
    2025, eq. 4 and 5): no token loses its gradient. To these are added kl_coefficient · KL and
    -entropy_coefficient · H, with H the entropy (N, T) of the policy at each token.

    The first loss of a rollout is -mean(A), often exactly 0: the ratio is 1. Its gradient is not 0.
    """
    own, nothing = mask > 0, 0.0 * mask
    logprobs, old, advantages = (backend.where(own, x, nothing) for x in (logprobs, old, advantages))
    log_ratio = logprobs - old  # (N, T)
    ratio = _ratio(backend, log_ratio, mask, settings.ratio, segments)
    if settings.loss == "cispo":
        losses = -backend.stop_gradient(_at_most(backend, ratio, 1.0 + settings.clip_high)) * advantages * logprobs
    else:
        losses = -_clipped_gain(backend, ratio, advantages, settings)
    if settings.kl_coefficient:
        assert reference is not None, "a divergence needs the reference's log-probabilities"
        reference = backend.where(own, reference, nothing)
        losses = losses + settings.kl_coefficient * kl_estimate(backend, settings.kl, logprobs, reference, log_ratio)
    if settings.entropy_coefficient:
        assert entropy is not None, "an entropy bonus needs the entropies"
        losses = losses - settings.entropy_coefficient * backend.where(own, entropy, nothing)
    return backend.where(own, losses, nothing)


def token_weights(mask: np.ndarray, loss: str, longest: int = 0) -> np.ndarray:
    """Weight (N, T) float32 of each token's loss, for all answers of a step together (on the host).

    "answers" (grpo): each answer's mean, then the mean of all N answers. "tokens" (bnpo, dapo, cispo): the mean over
    all tokens; TRL's bnpo takes it within a micro-batch, so that it depends on how the batch is divided. "longest"
    (dr_grpo): divided by N · `longest`, the most tokens an answer may have, whatever the answers' lengths.
    Answers whose mask is empty (cut off, see without_unfinished) count in N.
    """
    check_name("policy loss", loss, tuple(POLICY_LOSSES))
    mask = (np.asarray(mask) > 0).astype(np.float64)
    if POLICY_LOSSES[loss] == "answers":
        weights = mask / np.maximum(mask.sum(axis=1, keepdims=True), 1.0) / len(mask)
    elif POLICY_LOSSES[loss] == "tokens":
        weights = mask / max(mask.sum(), 1.0)
    else:
        assert longest >= mask.sum(axis=1).max(initial=0), (longest, mask.sum(axis=1).max(initial=0))
        weights = mask / (len(mask) * longest)
    return weights.astype(np.float32)


def without_unfinished(mask: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """`mask` (N, T) with 0 for answers that did not `end` (N,) by themselves: their reward says little (DAPO, 3.4)."""
    return np.asarray(mask) * np.asarray(ended, bool)[:, None]


def token_entropy(backend: Backend, logits: Array) -> Array:
    """Entropy in nats (…,) of the distributions softmax(logits (…, V)); the logits already divided by temperature."""
    logits = backend.cast(logits, "float32")
    return backend.logsumexp(logits) - (backend.softmax(logits) * logits).sum(axis=-1)


def value_losses(backend: Backend, values: Array, old: Array, targets: Array, mask: Array, clip: float) -> Array:
    """Loss of the critic per token (N, T): ½ max((V - R)², (clip(V, V_old ± clip) - R)²), 0 where `mask` is 0.

    The value keeps near that of the rollout (Schulman et al. 2017, in OpenAI's baselines); `clip` 0 is no clipping.
    """
    own, nothing = mask > 0, 0.0 * mask
    values, old, targets = (backend.where(own, x, nothing) for x in (values, old, targets))
    losses = (values - targets) * (values - targets)
    if clip:
        near = old + _bounded(backend, values - old, -clip, clip)
        clipped = (near - targets) * (near - targets)
        losses = backend.where(clipped > losses, clipped, losses)
    return 0.5 * losses


def policy_metrics(
    backend: Backend, logprobs: Array, old: Array, advantages: Array, mask: Array, weights: Array,
    settings: PolicySettings, segments: Array | None = None,
) -> dict[str, Array]:  # fmt: skip
    """Weighted means over tokens (`weights` (N, T) sums to 1 over the step): `ratio`, the shares `clip_low` and
    `clip_high` whose gradient the clipping took, and `moved`, the divergence from the sampling policy (k3).
    """
    own, nothing = mask > 0, 0.0 * mask
    logprobs, old, advantages = (backend.where(own, x, nothing) for x in (logprobs, old, advantages))
    log_ratio = logprobs - old  # (N, T)
    ratio = _ratio(backend, log_ratio, mask, settings.ratio, segments)
    none, worse, better = 0.0 * weights, advantages < 0, advantages > 0
    found = {
        "ratio": ratio * weights,
        "clip_low": backend.where(worse & (ratio < 1.0 - settings.clip_low), weights, none),
        "clip_high": backend.where(better & (ratio > 1.0 + settings.clip_high), weights, none),
        "moved": (backend.exp(log_ratio) - 1.0 - log_ratio) * weights,
    }
    return {name: x.sum(axis=-1).sum() for name, x in found.items()}


def _ratio(backend: Backend, log_ratio: Array, mask: Array, level: str, segments: Array | None) -> Array:
    """(N, T) ratio of each token, or of its answer at every place."""
    log_ratio = log_ratio if level == "token" else _means(backend, log_ratio, mask, segments)
    return backend.exp(_bounded(backend, log_ratio, -WIDEST, WIDEST))


def _means(backend: Backend, values: Array, mask: Array, segments: Array | None) -> Array:
    """(N, T) mean of `values` over the tokens of the same answer, which is a row or a segment of it."""
    if segments is None:
        lengths, sums = (x.sum(axis=-1, keepdims=True) for x in (mask, values))  # (N, 1) each
    else:
        alike = backend.cast(segments[:, :, None] == segments[:, None, :], "float32")  # (N, T, T)
        lengths, sums = ((alike @ x[..., None])[..., 0] for x in (mask, values))  # (N, T) each
    return sums / backend.where(lengths > 0, lengths, 0.0 * lengths + 1.0) + 0.0 * values


def _clipped_gain(backend: Backend, ratio: Array, advantages: Array, settings: PolicySettings) -> Array:
    free = ratio if settings.delta is None else _at_most(backend, ratio, settings.delta)
    near = _bounded(backend, ratio, 1.0 - settings.clip_low, 1.0 + settings.clip_high)
    gain, clipped = free * advantages, near * advantages
    return backend.where(clipped < gain, clipped, gain)


def _bounded(backend: Backend, x: Array, low: float, high: float) -> Array:
    return backend.where(x < low, 0.0 * x + low, _at_most(backend, x, high))


def _at_most(backend: Backend, x: Array, high: float) -> Array:
    return backend.where(x > high, 0.0 * x + high, x)
