"""Reinforcement learning by definition, against theory on a model of 64 answers, and with planted mistakes."""

import numpy as np
import pytest

from minigpt.parity.rl import toy
from minigpt.parity.rl.cases import OURS, Fault, cases, compare
from minigpt.parity.rl.check import check_rl_faults, faults


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_our_functions_compute_their_definitions(backend, case):
    rows = compare(case, backend)
    assert rows and all(r.ok for r in rows), rows


def test_every_expected_gradient_is_that_of_theory(backend):
    rows = toy.check_toy(backend)
    assert len(rows) == len(toy.estimators()) and all(r.ok for r in rows), [r for r in rows if not r.ok]


def test_biased_estimators_are_far_from_what_they_are_taken_for():
    """The objectives that theory gives them are others: their gradients point elsewhere, so the check can fail."""
    named = {estimator.name: toy.gradient(estimator.objective) for estimator in toy.estimators()}
    reward, divergence = named["reward of the answer"], named["k1 in the reward"]
    frozen = named["k2 in the loss (prefixes frozen)"]
    for name, meant in {
        "biased: Dr. GRPO is (1 - 1/K) of it": reward,
        "biased: GRPO counts only who wins": reward,
        "biased: GAE, λ = 0, a wrong critic": reward,
        "biased: off-policy, not corrected": reward,
        "biased: k1 in the loss is 0": frozen,
        "biased: k3 in the loss is KL(ref || π)": frozen,
        "biased: k3 in the reward": divergence,
    }.items():
        assert np.abs(named[name] - meant).max() > 0.02, name
    assert len([name for name in named if name.startswith("biased")]) == 7


def test_the_toy_models_divergence_is_a_mean_over_its_answers():
    """E[k1] = E[k3] = Σ p log(p/q) over all 64 answers; k1 is negative for some of them, their mean is not."""
    d = (toy.logprobs(toy.NOW) - toy.logprobs(toy.REFERENCE)).sum(axis=1)  # (64,)
    p, q = toy.probabilities(toy.NOW), toy.probabilities(toy.REFERENCE)
    assert p.sum() == pytest.approx(1) and d.min() < 0
    kl = float((p * np.log(p / q)).sum())
    assert p @ d == pytest.approx(kl) and p @ (np.exp(-d) - 1 + d) == pytest.approx(kl) and kl > 0
    per_token = toy.divergences(toy.NOW, toy.REFERENCE)
    assert p @ per_token.sum(axis=1) == pytest.approx(kl)  # the chain rule


def test_every_planted_mistake_is_caught(backend):
    rows = check_rl_faults(backend)
    assert len(rows) == len(faults()) >= 40
    assert [r.case for r in rows if not r.ok] == []
    assert all(np.isfinite(r.difference) for r in rows)  # by its numbers, not because it fell over


def test_a_harmless_change_is_not_called_a_mistake(backend, monkeypatch):
    """Our own function in its own place counts as not caught."""
    harmless = Fault("nothing wrong", "GAE", "gae", OURS["gae"])
    monkeypatch.setattr("minigpt.parity.rl.check.faults", lambda: [harmless])
    assert [r.ok for r in check_rl_faults(backend)] == [False]


def test_every_function_has_a_mistake_planted():
    """Except those that answer questions (check_kl)."""
    assert {fault.function for fault in faults()} == set(OURS) - {"check_kl"}
    assert {fault.case for fault in faults()} <= {case.name for case in cases()}
