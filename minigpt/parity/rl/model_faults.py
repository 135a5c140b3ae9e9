"""Mistakes in the losses of reward models, of preferences and of distillation, most of them found in published code."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from backends.base import Array, Backend
from minigpt.parity.rl.cases import OURS, Fault
from minigpt.train.reward_losses import Bin


def model_faults() -> list[Fault]:
    """Planted mistakes in what is learned from pairs, labels and a teacher."""
    return [*_of_rewards(), *_of_preferences(), *_of_distillation()]


def _of_rewards() -> list[Fault]:
    pairs, at = OURS["pair_losses"], OURS["scores_at"]

    def pools_padding(scores: Array, ends: Array) -> Array:
        return at(scores, ends * 0.0)[..., :1] * 0.0 + scores[:, -1:] + at(scores, ends) * 0.0

    def one_earlier(scores: Array, ends: Array) -> Array:
        return at(scores[:, :-1], ends[:, :, 1:])

    def of_the_batch(scores: Array, ends: Array) -> Array:
        return at(scores, ends) - at(scores, ends).mean()

    def across_answers(model: Any, weights: Any, batch: dict) -> Array:
        return OURS["answer_scores"](model, weights, batch | {"segments": batch["segments"] * 0})

    def at_line_breaks(tokenizer: Any, ids: list[int]) -> list[int]:
        return [i for i, token in enumerate(ids) if b"\n" in tokenizer.bytes_of(token)] + [len(ids) - 1]

    def squared_margin(b: Backend, chosen: Array, rejected: Array, margin: Array, centering: float) -> Array:
        gap = chosen - rejected
        return pairs(b, chosen, rejected, margin) + centering * gap * gap

    def middles(probabilities: np.ndarray, outcomes: np.ndarray, bins: int) -> list[Bin]:
        table = OURS["reliability"](probabilities, outcomes, bins)
        return [replace(line, predicted=(line.low + line.high) / 2) for line in table]

    def unweighted(table: list[Bin]) -> float:
        return sum(abs(line.observed - line.predicted) for line in table) / len(table)

    return [
        Fault("the reward model pools padding", "reward model", "scores_at", pools_padding),
        Fault("the score is one token early", "reward model", "scores_at", one_earlier),
        Fault("a score depends on the batch", "reward model", "scores_at", of_the_batch),
        Fault("chosen and rejected exchanged", "reward model", "pair_losses",
              lambda b, chosen, rejected, *rest: pairs(b, rejected, chosen, *rest)),
        Fault("the margin is added", "reward model", "pair_losses", lambda b, c, r, m, k: pairs(b, c, r, -m, k)),
        Fault("centering of the difference", "reward model", "pair_losses", squared_margin),
        Fault("an answer sees those beside it", "answers in one row", "answer_scores", across_answers),
        Fault("a step is scored after its line break", "ends of steps", "line_ends", at_line_breaks),
        Fault("labels of steps exchanged", "process reward", "step_losses",
              lambda b, scores, labels: OURS["step_losses"](b, scores, 1.0 - labels)),
        Fault("calibration error without counts", "calibration", "calibration_error", unweighted),
        Fault("a bin's middle for its mean probability", "calibration", "reliability", middles),
    ]  # fmt: skip


def _of_preferences() -> list[Fault]:
    ours = OURS["answer_losses"]

    def answers_changed(change: Callable[[Any], dict]) -> Callable:
        return lambda b, kind, answers, s: ours(b, kind, replace(answers, **change(answers)), s)

    def settings_changed(**changes: Any) -> Callable:
        return lambda b, kind, answers, s: ours(b, kind, answers, replace(s, **changes))

    def as_if(other: str) -> Callable:
        return lambda b, kind, answers, s: ours(b, other, answers, s)

    def without_nll(b: Backend, kind: str, answers: Any, s: Any) -> Array:
        return ours(b, kind, answers, s) + answers.policy[..., 0] / answers.lengths[..., 0]

    sums, no_reference = answers_changed(lambda x: {"lengths": 0 * x.lengths + 1}), answers_changed(
        lambda x: {"reference": 0 * x.reference})  # fmt: skip
    turned = answers_changed(lambda x: {"policy": x.reference, "reference": x.policy})
    return [Fault(name, f"preference: {kind}", "answer_losses", wrong) for name, kind, wrong in [
        ("DPO: policy and reference exchanged", "sigmoid", turned),
        ("hinge without the reference", "hinge", no_reference),
        ("IPO on sums", "ipo", sums),
        ("cDPO without smoothing", "cdpo", settings_changed(label_smoothing=0.0)),
        ("robust DPO not divided", "robust",
         lambda b, kind, a, s: (1 - 2 * s.label_smoothing) * ours(b, kind, a, s)),
        ("robust DPO is cDPO", "robust", as_if("cdpo")),
        ("SimPO on sums", "simpo", sums),
        ("SimPO's γ times β", "simpo", settings_changed(target_margin=0.6 * 0.3)),
        ("SimPO without its margin", "simpo", settings_changed(target_margin=0.0)),
        ("ORPO without likelihood", "orpo", without_nll),
        ("KTO without its baseline", "kto", answers_changed(lambda x: {"baseline": 0.0})),
        ("KTO: labels exchanged", "kto", answers_changed(lambda x: {"labels": 1.0 - x.labels})),
        ("KTO without weights", "kto", settings_changed(desirable_weight=1.0, undesirable_weight=1.0)),
        ("APO-zero for APO-down", "apo_down", as_if("apo_zero")),
        ("APO-zero: policy and reference exchanged", "apo_zero", turned),
    ]] + [
        Fault("KTO's baseline may be negative", "KTO baseline", "kto_baseline",
              lambda policy, reference: np.mean(policy - reference)),
    ]  # fmt: skip


def _of_distillation() -> list[Fault]:
    ours = OURS["distances"]

    def teacher_hotter(b: Backend, student: Array, teacher: Array, kind: str, temperature: float, mixture: float):
        return ours(b, student, teacher * temperature, kind, temperature, mixture)

    return [Fault(name, f"distillation: {kind}", "distances", wrong) for name, kind, wrong in [
        ("forward KL is reverse KL", "forward_kl", lambda b, q, p, kind, *r: ours(b, q, p, "reverse_kl", *r)),
        ("reverse KL is forward KL", "reverse_kl", lambda b, q, p, kind, *r: ours(b, q, p, "forward_kl", *r)),
        ("temperature for the student only", "forward_kl", teacher_hotter),
        ("no temperature", "reverse_kl", lambda b, q, p, kind, t, m: ours(b, q, p, kind, 1.0, m)),
        ("JSD: the mixture's weights exchanged", "jsd", lambda b, q, p, kind, t, m: ours(b, q, p, kind, t, 1 - m)),
        ("JSD: student and teacher exchanged", "jsd", lambda b, q, p, kind, *r: ours(b, p, q, kind, *r)),
    ]]  # fmt: skip
