"""The model and its losses on both backends against NumPy, and leaf by leaf against each other."""

import pytest

from backends import tree
from minigpt.model.gpt import to_backend, weight_shapes
from minigpt.parity.models import LOSSES, MODEL_CASES, compare_losses, compare_models, random_weights


@pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: case.name)
def test_model(both, case):
    rows = compare_models(both, [case])
    leaves = {r.case.split(": ")[-1] for r in rows if r.quantity == "gradient" and r.pair == "mlx vs torch"}
    assert leaves == set(weight_shapes(case.config))
    assert [r for r in rows if not r.ok] == []


@pytest.mark.parametrize("name", LOSSES)
def test_loss(both, name):
    rows = compare_losses(both, {name: LOSSES[name]})
    expected = {("loss", "mlx vs numpy"), ("gradient along a direction", "torch vs numpy")}
    assert {(r.quantity, r.pair) for r in rows} >= expected
    assert [r for r in rows if not r.ok] == []


def test_a_change_in_one_leaf_is_noticed(both, monkeypatch):
    """The comparison can fail: one backend gets one of its weights a ten-thousandth too large."""
    first, _ = both

    def disturbed(backend, weights, dtype=None):
        weights = to_backend(backend, weights, dtype)
        if backend is first:
            weights["model"]["layers"][1]["mlp"]["up_proj"]["weight"] = (
                weights["model"]["layers"][1]["mlp"]["up_proj"]["weight"] * 1.0001
            )
        return weights

    monkeypatch.setattr("minigpt.parity.models.to_backend", disturbed)
    broken = [r for r in compare_models(both, MODEL_CASES[:1]) if not r.ok]
    assert {r.quantity for r in broken} >= {"logits", "gradient", "gradient along a direction"}
    assert not any(r.pair == "torch vs numpy" for r in broken)


def test_random_weights_are_the_same_each_time():
    config = MODEL_CASES[0].config
    for a, b in zip(tree.leaves(random_weights(config)), tree.leaves(random_weights(config)), strict=True):
        assert (a == b).all()
