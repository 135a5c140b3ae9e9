"""Mistakes in the losses of policy and critic and in their averages, most of them found in published code."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from backends.base import Array, Backend
from minigpt.parity.rl.cases import OURS, PADDING, Fault
from minigpt.train.policy_losses import PolicySettings


def policy_faults() -> list[Fault]:
    """Planted mistakes in clipping, ratios, normalisers, KL, entropy, temperature and value losses."""
    return [*_of_policies(), *_of_ratios(), *_of_weights(), *_of_critics()]


def _of_policies() -> list[Fault]:
    ours = OURS["policy_losses"]

    def settings_changed(**changes: Any) -> Callable:
        return lambda b, x, old, a, mask, s, *rest: ours(b, x, old, a, mask, replace(s, **changes), *rest)

    def worst_of_both(b: Backend, x: Array, old: Array, a: Array, mask: Array, s: PolicySettings, *rest: Any) -> Array:
        return -ours(b, x, old, -a, mask, s, *rest)  # max instead of min

    def unmasked(b: Backend, x: Array, old: Array, a: Array, mask: Array, s: PolicySettings, *rest: Any) -> Array:
        held = [b.where(mask > 0, y, 0.0 * mask + PADDING) for y in (x, old, a)]
        return ours(b, *held, 0.0 * mask + 1.0, s, *rest)

    def shifted(b: Backend, x: Array, old: Array, a: Array, mask: Array, s: PolicySettings, *rest: Any) -> Array:
        a = b.where(mask > 0, a, 0.0 * mask)
        return ours(b, x, old, b.concat([a[:, 1:], a[:, :1]], 1), mask, s, *rest)

    def k1(b: Backend, x: Array, old: Array, a: Array, mask: Array, s: PolicySettings, reference: Array, e: Array):
        found = ours(b, x, old, a, mask, replace(s, kl_coefficient=0.0), reference, e)
        return found + b.where(mask > 0, s.kl_coefficient * (x - reference), 0.0 * mask)

    def turned_kl(b: Backend, x: Array, old: Array, a: Array, mask: Array, s: PolicySettings, reference: Array, e):
        d = b.where(mask > 0, reference - x, 0.0 * mask)
        found = ours(b, x, old, a, mask, replace(s, kl_coefficient=0.0), reference, e)
        return found + b.where(mask > 0, s.kl_coefficient * (b.exp(-d) - 1.0 + d), 0.0 * mask)

    def negative(name: str) -> Callable:
        return lambda b, x, old, a, mask, s, *rest: ours(
            b, x, old, a, mask, replace(s, **{name: -getattr(s, name)}), *rest
        )

    def policy(name: str, case: str, wrong: Callable) -> Fault:
        return Fault(name, f"policy loss: {case}", "policy_losses", wrong)

    return [
        policy("advantages with the other sign", "PPO", lambda b, x, o, a, m, s, *r: ours(b, x, o, -a, m, s, *r)),
        policy("the better of clipped and free", "PPO", worst_of_both),
        policy("no clipping", "PPO", settings_changed(clip_low=0.99, clip_high=10.0)),
        policy("loss on padding", "PPO", unmasked),
        policy("advantages shifted by one token", "PPO", shifted),
        policy("clip-higher ignored", "clip-higher", settings_changed(clip_high=0.2)),
        policy("clip-higher below, too", "clip-higher", settings_changed(clip_low=0.4)),
        policy("delta ignored", "two-sided", settings_changed(delta=None)),
        policy("no KL", "k3", settings_changed(kl_coefficient=0.0)),
        policy("k1 in the loss", "k3", k1),
        policy("k2 for k3", "k3", settings_changed(kl="k2")),
        policy("k3 between the wrong policies", "k3", turned_kl),
        policy("negative KL", "k3", negative("kl_coefficient")),
        policy("KL of another policy's tokens, not corrected", "k3c", settings_changed(kl="k3")),
        policy("entropy is punished", "entropy", negative("entropy_coefficient")),
        policy("no entropy bonus", "entropy", settings_changed(entropy_coefficient=0.0)),
        policy("cispo clips like PPO", "cispo", settings_changed(loss="dapo")),
        policy("cispo with a free ratio", "cispo", settings_changed(clip_high=10.0)),
    ]


def _of_ratios() -> list[Fault]:
    ours = OURS["policy_losses"]

    def always_one(b: Backend, x: Array, old: Array, *rest: Any) -> Array:
        return ours(b, x, b.stop_gradient(x), *rest)

    def turned(b: Backend, x: Array, old: Array, *rest: Any) -> Array:
        return ours(b, 2.0 * b.stop_gradient(x) - x, 2.0 * b.stop_gradient(x) - old, *rest)

    def with_gradient(b: Backend, x: Array, old: Array, a: Array, mask: Array, s: PolicySettings) -> Array:
        x, old, a = (b.where(mask > 0, y, 0.0 * mask) for y in (x, old, a))
        ratio, most = b.exp(x - old), 1.0 + s.clip_high
        return -b.where(ratio > most, 0.0 * ratio + most, ratio) * a * x

    def level(kind: str) -> Callable:
        return lambda b, x, old, a, mask, s, *rest: ours(b, x, old, a, mask, replace(s, ratio=kind), *rest)

    def per_sequence(divide: Callable[[Array], Any]) -> Callable:
        def wrong(b: Backend, x: Array, old: Array, a: Array, mask: Array, s: PolicySettings, *rest: Any) -> Array:
            step = b.where(mask > 0, x - old, 0.0 * mask).sum(axis=-1, keepdims=True) / divide(mask) + 0.0 * mask
            return ours(b, step, 0.0 * mask, a, mask, replace(s, ratio="token"), *rest)

        return wrong

    return [Fault(name, f"policy loss: {case}", "policy_losses", wrong) for name, case, wrong in [
        ("the ratio is always 1", "PPO", always_one),
        ("the ratio is always 1 (GSPO)", "GSPO", always_one),
        ("old over new", "PPO", turned),
        ("ratio of the answer instead of the token", "PPO", level("sequence")),
        ("ratio of the token instead of the answer", "GSPO", level("token")),
        ("ratio of the answer is a product, not a mean", "GSPO", per_sequence(lambda mask: 1.0)),
        ("ratio of the answer divided by the padded length", "GSPO", per_sequence(lambda mask: mask.shape[1])),
        ("cispo with a gradient through the ratio", "cispo", with_gradient),
    ]]  # fmt: skip


def _of_weights() -> list[Fault]:
    ours = OURS["token_weights"]

    def as_if(loss: str) -> Callable:
        return lambda mask, _, longest=0: ours(mask, loss, longest)

    def scaled(factor: float) -> Callable:
        return lambda mask, loss, longest=0: np.float32(factor) * ours(mask, loss, longest)

    def by_parts(mask: np.ndarray, loss: str, longest: int = 0) -> np.ndarray:
        """Each micro-batch divides by its own tokens; then their mean."""
        parts = [ours(mask[part], loss, longest) for part in (slice(0, 1), slice(1, 3), slice(3, 6))]
        return np.concatenate(parts) / np.float32(3)

    def shifted(mask: np.ndarray, loss: str, longest: int = 0) -> np.ndarray:
        return ours(np.concatenate([mask[:, 1:], 0 * mask[:, :1]], axis=1), loss, longest)

    def weights(name: str, loss: str, wrong: Callable) -> Fault:
        return Fault(name, f"weights: {loss}", "token_weights", wrong)

    return [
        weights("dapo: mean of means", "dapo", as_if("grpo")),
        weights("grpo: mean of tokens", "grpo", as_if("dapo")),
        weights("normaliser twice as large", "dapo", scaled(0.5)),
        weights("normaliser a quarter", "cispo", scaled(4.0)),
        weights("loss mask shifted by one", "bnpo", shifted),
        weights("padding counts as tokens", "dapo", lambda mask, loss, n=0: ours(np.ones_like(mask), loss, n)),
        weights("dr_grpo by the longest answer there is", "dr_grpo", lambda mask, loss, n: ours(mask, loss, 6)),
        Fault("micro-batches as a mean of means", "micro-batches", "token_weights", by_parts),
        Fault("answers cut off are kept", "weights: dapo", "without_unfinished", lambda mask, ended: mask),
        Fault("answers that ended are dropped", "weights: dapo", "without_unfinished",
              lambda mask, ended: OURS["without_unfinished"](mask, ~ended)),
        Fault("scored at temperature 1", "temperature", "token_losses",
              lambda *given, temperature: OURS["token_losses"](*given)),
        Fault("logits times the temperature", "temperature", "token_losses",
              lambda *given, temperature: OURS["token_losses"](*given, temperature=1 / temperature)),
    ]  # fmt: skip


def _of_critics() -> list[Fault]:
    ours = OURS["value_losses"]

    def lower_of_both(b: Backend, x: Array, old: Array, targets: Array, mask: Array, clip: float) -> Array:
        free, clipped = (ours(b, y, old, targets, mask, 0.0) for y in (x, _near(b, x, old, clip)))
        return b.where(clipped < free, clipped, free)

    def clipped_only(b: Backend, x: Array, old: Array, targets: Array, mask: Array, clip: float) -> Array:
        return ours(b, _near(b, x, old, clip), old, targets, mask, 0.0)

    def unmasked(b: Backend, x: Array, old: Array, targets: Array, mask: Array, clip: float) -> Array:
        held = [b.where(mask > 0, y, 0.0 * mask + z) for y, z in ((x, PADDING), (old, PADDING), (targets, 0.0))]
        return ours(b, *held, 0.0 * mask + 1.0, clip)

    return [Fault(name, "value loss", "value_losses", wrong) for name, wrong in {
        "value clipping takes the lower loss": lower_of_both,
        "value clipping always": clipped_only,
        "value clipping around the targets": lambda b, x, old, t, m, c: ours(b, x, t, t, m, c),
        "value loss without clipping": lambda b, x, old, t, m, c: ours(b, x, old, t, m, 0.0),
        "value loss without the half": lambda *given: 2.0 * ours(*given),
        "value loss on padding": unmasked,
    }.items()] + [
        Fault("KL controller the wrong way round", "KL controller", "adapted_coefficient",
              lambda c, kl, target, n, horizon: OURS["adapted_coefficient"](c, target, kl, n, horizon)),
        Fault("KL controller without a bound", "KL controller", "adapted_coefficient",
              lambda c, kl, target, n, horizon: c * (1 + (kl / target - 1) * n / horizon)),
        Fault("never stops early", "KL controller", "moved_too_far", lambda moved, target: False),
        Fault("entropy of the logits at temperature 1", "entropy", "token_entropy",
              lambda b, x: OURS["token_entropy"](b, x * 0.7)),
    ]  # fmt: skip


def _near(b: Backend, x: Array, old: Array, clip: float) -> Array:
    step = x - old
    step = b.where(step > clip, 0.0 * step + clip, step)
    return old + b.where(step < -clip, 0.0 * step - clip, step)
