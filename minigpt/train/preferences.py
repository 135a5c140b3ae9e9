"""Preference losses: one row of PREFERENCE_LOSSES for each, from summed log-probabilities of whole answers.

Shapes: B rows, P pairs per row, S answers per row, T tokens. Index 0 of the last axis of (B, P, 2) is the chosen
answer, index 1 the rejected one. Notation: h = log π(y|x) - log π_ref(y|x) of an answer, β the setting `beta`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backends.base import Array, Backend
from minigpt.errors import UsageError, check_name

SURE = -1e-6  # the largest mean log-probability whose odds are computed: p = 1 has infinite odds


@dataclass(frozen=True)
class Answers:
    """What the losses read. `reference` is None for losses without one, `labels` for losses of pairs."""

    policy: Array  # (B, P, 2), or (B, S) for unpaired answers: log π(y|x), summed over the answer's tokens
    reference: Array | None = None  # like `policy`: log π_ref(y|x)
    lengths: Array | None = None  # like `policy`: tokens of each answer
    labels: Array | None = None  # (B, S): 1 for a desirable answer, 0 for an undesirable one
    baseline: float | Array = 0.0  # see kto_baseline; an array holds the one number in each row


@dataclass(frozen=True)
class PreferenceSettings:
    """Numbers of the losses; each loss names in its docstring which it reads."""

    beta: float = 0.1
    label_smoothing: float = 0.0  # share of pairs believed to be labelled the wrong way round, below 0.5
    target_margin: float = 0.5  # SimPO's γ
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


@dataclass(frozen=True)
class PreferenceLoss:
    """A row of the table."""

    formula: Callable[[Backend, Answers, PreferenceSettings], Array]  # -> (B, P), or (B, S) when unpaired
    needs_reference: bool = True
    needs_lengths: bool = False
    paired: bool = True
    start: Callable[[float], float] | None = None  # β -> the loss while policy and reference are equal


def _sigmoid(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """DPO: -log σ(β (h_chosen - h_rejected)) (Rafailov et al. 2023, eq. 7)."""
    return -backend.log_sigmoid(settings.beta * _margin(answers.policy - answers.reference))


def _ipo(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """(h_chosen - h_rejected - 1/(2β))² with h per token (Azar et al. 2023, eq. 17).

    A sum over tokens would make long answers count more; the authors' results are with means (so TRL's documentation,
    which has it from them).
    """
    gap = _margin(_per_token(backend, answers.policy - answers.reference, answers.lengths))
    gap = gap - 1.0 / (2.0 * settings.beta)
    return gap * gap


def _hinge(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """max(0, 1 - β (h_chosen - h_rejected)): SLiC's loss on DPO's margin (Zhao et al. 2023; Liu et al. 2024, RSO)."""
    short = 1.0 - settings.beta * _margin(answers.policy - answers.reference)
    return backend.where(short > 0, short, 0.0 * short)


def _cdpo(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """-(1-ε) log σ(β m) - ε log σ(-β m), ε = `label_smoothing`: conservative DPO (Mitchell 2023)."""
    right, wrong = _both_ways(backend, answers, settings)
    noise = settings.label_smoothing
    return (1.0 - noise) * right + noise * wrong


def _robust(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """(-(1-ε) log σ(β m) + ε log σ(-β m)) / (1-2ε): unbiased under flipped labels (Chowdhury et al. 2024, eq. 12)."""
    right, wrong = _both_ways(backend, answers, settings)
    noise = settings.label_smoothing
    return ((1.0 - noise) * right - noise * wrong) / (1.0 - 2.0 * noise)


def _simpo(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """-log σ(β (mean log π(chosen) - mean log π(rejected)) - γ), γ = `target_margin` (Meng et al. 2024, eq. 6)."""
    margin = _margin(_per_token(backend, answers.policy, answers.lengths))
    return -backend.log_sigmoid(settings.beta * margin - settings.target_margin)


def _orpo(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """-mean log π(chosen) - β log σ(log odds(chosen) - log odds(rejected)) (Hong et al. 2024, eq. 6 and 7).

    odds = p / (1 - p) of the answer's mean token probability in the geometric sense, β is the paper's λ.
    """
    means = _per_token(backend, answers.policy, answers.lengths)  # (B, P, 2)
    odds = means - _log_one_minus_exp(backend, means)
    return -means[..., 0] - settings.beta * backend.log_sigmoid(_margin(odds))


def _kto(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """λ_D (1 - σ(β (h - z))) or λ_U (1 - σ(β (z - h))) per answer (Ethayarajh et al. 2024, eq. 7).

    z is `baseline` (see kto_baseline), λ_D and λ_U are `desirable_weight` and `undesirable_weight`.
    """
    gap = settings.beta * (answers.policy - answers.reference - answers.baseline)  # (B, S)
    desirable = settings.desirable_weight * _logistic(backend, -gap)
    return backend.where(answers.labels > 0, desirable, settings.undesirable_weight * _logistic(backend, gap))


def _apo_zero(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """1 - σ(β h_chosen) + σ(β h_rejected): chosen up, rejected down (D'Oosterlinck et al. 2024, eq. 7)."""
    rewards = settings.beta * (answers.policy - answers.reference)  # (B, P, 2)
    return _logistic(backend, -rewards[..., 0]) + _logistic(backend, rewards[..., 1])


def _apo_down(backend: Backend, answers: Answers, settings: PreferenceSettings) -> Array:
    """σ(β h_chosen) + 1 - σ(β (h_chosen - h_rejected)): both down, rejected more (D'Oosterlinck et al. 2024, eq. 8)."""
    rewards = settings.beta * (answers.policy - answers.reference)  # (B, P, 2)
    return _logistic(backend, rewards[..., 0]) + _logistic(backend, -_margin(rewards))


def _log_two(beta: float) -> float:
    return math.log(2)


PREFERENCE_LOSSES: dict[str, PreferenceLoss] = {
    "sigmoid": PreferenceLoss(_sigmoid, start=_log_two),
    "ipo": PreferenceLoss(_ipo, needs_lengths=True, start=lambda beta: 1 / (4 * beta**2)),
    "hinge": PreferenceLoss(_hinge, start=lambda beta: 1.0),
    "cdpo": PreferenceLoss(_cdpo, start=_log_two),
    "robust": PreferenceLoss(_robust, start=_log_two),
    "simpo": PreferenceLoss(_simpo, needs_reference=False, needs_lengths=True),
    "orpo": PreferenceLoss(_orpo, needs_reference=False, needs_lengths=True),
    "kto": PreferenceLoss(_kto, paired=False, start=lambda beta: 0.5),
    "apo_zero": PreferenceLoss(_apo_zero, start=lambda beta: 1.0),
    "apo_down": PreferenceLoss(_apo_down, start=lambda beta: 1.0),
}


def answer_losses(backend: Backend, kind: str, answers: Answers, settings: PreferenceSettings) -> Array:
    """Loss per pair (B, P), or per answer (B, S) for unpaired losses. Raises UsageError for an unknown `kind`, and
    when `answers` lacks what this loss reads.
    """
    check_name("preference loss", kind, tuple(PREFERENCE_LOSSES))
    row = PREFERENCE_LOSSES[kind]
    if row.paired and len(answers.policy.shape) != 3:
        raise UsageError(f"The preference loss {kind} compares pairs, and these rows are single answers with labels.",
                         "Use the loss kto, or data with chosen and rejected answers.")  # fmt: skip
    needed = {"reference": row.needs_reference, "lengths": row.needs_lengths, "labels": not row.paired}
    missing = [name for name, wanted in needed.items() if wanted and getattr(answers, name) is None]
    if missing:
        raise UsageError(f"The preference loss {kind} needs {' and '.join(missing)}.")
    return row.formula(backend, answers, settings)


def preference_losses(
    backend: Backend, policy: Array, reference: Array, kind: str, settings: PreferenceSettings, spans: Array
) -> Array:
    """Loss per pair (B, P) from summed log-probabilities (B, P, 2) of chosen and rejected.

    `spans` (B, 2 P, T) is 1 where token t belongs to the answer of sequence s.
    """
    check_name("preference loss", kind, tuple(PREFERENCE_LOSSES))
    lengths = None
    if PREFERENCE_LOSSES[kind].needs_lengths:
        lengths = spans.sum(axis=-1).reshape(policy.shape)  # (B, P, 2); 0 where there is no pair
    return answer_losses(backend, kind, Answers(policy, reference, lengths), settings)


def preference_metrics(
    backend: Backend, policy: Array, reference: Array, pairs: Array, beta: float
) -> dict[str, Array]:
    """Weighted means over the pairs (B, P): both rewards β log(π/π_ref), their margin, and how often it is positive."""
    rewards = beta * (policy - reference)  # (B, P, 2)
    margin = _margin(rewards)
    return {
        "reward_chosen": (rewards[..., 0] * pairs).sum(),
        "reward_rejected": (rewards[..., 1] * pairs).sum(),
        "margin": (margin * pairs).sum(),
        "accuracy": (backend.where(margin > 0, pairs, 0.0 * pairs)).sum(),
    }


def kto_baseline(policy: np.ndarray, reference: np.ndarray) -> float:
    """KTO's reference point z = max(0, mean(log π(y'|x) - log π_ref(y'|x))) from the log-probabilities (N,) of answers
    y' that belong to other prompts of the batch (Ethayarajh et al. 2024, section 4.1).

    It is a number of the whole batch, computed on the host before the batch is divided, and has no gradient.
    """
    return max(0.0, float(np.mean(np.asarray(policy, np.float64) - np.asarray(reference, np.float64))))


def _margin(values: Array) -> Array:
    """Chosen minus rejected: (B, P, 2) -> (B, P)."""
    return values[..., 0] - values[..., 1]


def _per_token(backend: Backend, sums: Array, lengths: Array) -> Array:
    """Means from sums over the answers' tokens; 0 where there is no answer."""
    return sums / backend.where(lengths > 0, lengths, 0.0 * lengths + 1.0)


def _logistic(backend: Backend, x: Array) -> Array:
    """σ(x) = 1 / (1 + e⁻ˣ), without overflow."""
    return 0.5 * (backend.tanh(0.5 * x) + 1.0)


def _both_ways(backend: Backend, answers: Answers, settings: PreferenceSettings) -> tuple[Array, Array]:
    """DPO's loss for the labels as they are and for flipped ones, (B, P) each."""
    margin = settings.beta * _margin(answers.policy - answers.reference)
    return -backend.log_sigmoid(margin), -backend.log_sigmoid(-margin)


def _log_one_minus_exp(backend: Backend, x: Array) -> Array:
    """log(1 - eˣ) for x < 0, exact also near 0: 1 - eˣ = -2 t / (1 - t) with t = tanh(x / 2)."""
    half = backend.tanh(0.5 * backend.where(x > SURE, 0.0 * x + SURE, x))
    return backend.log(-2.0 * half / (1.0 - half))
