"""The ladder with made-up trainings that follow a known law, and what budgets buy."""

import json

import pytest

from minigpt.errors import DataError, UsageError
from minigpt.experiments import ladder
from minigpt.experiments.budgets import MACHINES, Rate, bought, rate_of
from minigpt.experiments.laws import FLOPS, REPLICATION, Law
from minigpt.experiments.trials import Outcome

TRUTH = Law(0.9, 12.0, 200.0, 0.30, 0.45)


def trained(directory, setup, trials, budget, report):
    """Instead of training: the law's loss, as far as the budget of one second each reaches."""
    found = {}
    for trial in trials[: int(budget)]:
        loss = TRUTH.loss(ladder.size_of(trial), ladder.tokens_of(trial))
        found[trial.key(setup)] = Outcome(trial.key(setup), trial.label, trial.settings, 0, loss, {}, 1.0, 1.0)
    return found


def test_the_ladder_predicts_a_run_of_four_times_its_compute(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "run_trials", trained)
    fitted, check = ladder.climb(["x"], tmp_path, 100.0, 2)
    largest = max(point.compute for point in fitted.points)
    assert len(fitted.points) == 12 and FLOPS * check.parameters * check.tokens >= 4 * largest
    assert check.loss == pytest.approx(TRUTH.loss(check.parameters, check.tokens))
    assert abs(check.error) < 1e-3 and check.low <= check.predicted <= check.high
    assert json.loads((tmp_path / "check.json").read_text())["loss"] == check.loss
    assert ladder.read_law(tmp_path / "law.json") == fitted.law


def test_a_budget_that_ends_before_the_larger_run_leaves_the_prediction(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "run_trials", lambda d, s, t, b, r: trained(d, s, t, b, r) if len(t) > 1 else {})
    _, check = ladder.climb(["x"], tmp_path, 100.0, 2)
    assert check.loss is None and check.error is None and check.predicted > 0.9


def test_too_small_a_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "run_trials", trained)
    with pytest.raises(DataError, match="Only 5 runs"):
        ladder.climb(["x"], tmp_path, 5.0, 2)


def test_another_file_is_no_law(tmp_path):
    (tmp_path / "law.json").write_text('{"E": 1}')
    with pytest.raises(DataError, match="not a scaling law"):
        ladder.read_law(tmp_path / "law.json")


def test_what_a_hundred_dollars_buy():
    """100 $ at 2.5 $ an hour are 40 hours: 40 · 3600 · 0.4 · 989e12 = 5.7e19 operations."""
    found = bought(REPLICATION, MACHINES["h100"], dollars=100)
    assert found.seconds == pytest.approx(40 * 3600) and found.dollars == pytest.approx(100)
    assert found.compute == pytest.approx(40 * 3600 * 0.4 * 989e12) == pytest.approx(5.697e19, rel=1e-3)
    assert FLOPS * found.parameters * found.tokens == pytest.approx(found.compute)
    assert found.loss == REPLICATION.loss(found.parameters, found.tokens)
    assert found == bought(REPLICATION, MACHINES["h100"], compute=found.compute)
    twice = bought(REPLICATION, MACHINES["h100"], dollars=100, gpus=2)
    assert twice.seconds == pytest.approx(found.seconds / 2) and twice.loss == pytest.approx(found.loss)


def test_wrong_budgets():
    with pytest.raises(ValueError, match="one of"):
        bought(REPLICATION, Rate(1e12), compute=1.0, seconds=1.0)
    with pytest.raises(ValueError, match="no price"):
        bought(REPLICATION, Rate(1e12), dollars=1.0)
    with pytest.raises(UsageError, match="no machine 'h10'"):
        rate_of("h10")
