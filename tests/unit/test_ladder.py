"""The ladder with made-up trainings that follow a known law, and what budgets buy."""

import json

import pytest

from minigpt.errors import DataError, ResourceError, UsageError
from minigpt.experiments import ladder, rungs
from minigpt.experiments.budgets import MACHINES, Rate, best, bought, offers, rate_of
from minigpt.experiments.isoflop import valleys
from minigpt.experiments.laws import FLOPS, REPLICATION, Law
from minigpt.experiments.rungs import Pace
from minigpt.experiments.scaling_page import isoflop_chart, scaling_page
from minigpt.experiments.trials import Outcome, Setup

TRUTH = Law(0.9, 60.0, 400.0, 0.40, 0.42)
PACE = Pace(4.0, 0.004, 1e-10)  # a run starts in 4 s, a step of a tiny model takes 4 ms, and 10 billion operations 1 s


def trained(directory, setup, trials, budget, report):
    """Instead of training: the law's loss, as far as the budget of one second each reaches."""
    found = {}
    for trial in trials[: int(budget)]:
        loss = TRUTH.loss(rungs.size_of(trial), rungs.tokens_of(trial))
        found[trial.key(setup)] = Outcome(trial.key(setup), trial.label, trial.settings, 0, loss, {}, 1.0, 1.0)
    return found


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(ladder, "run_trials", trained)
    monkeypatch.setattr(ladder, "paced", lambda *given: PACE)


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "run_trials", trained)
        patch.setattr(ladder, "paced", lambda *given: PACE)
        directory = tmp_path_factory.mktemp("ladder")
        return ladder.climb(["x"], directory, 900.0, 1), directory


def test_the_ladder_predicts_a_run_of_four_times_its_compute(climbed):
    found, directory = climbed
    fitted, check = found.fitted, found.check
    largest = max(point.compute for point in fitted.points)
    assert len(fitted.points) >= 12 and FLOPS * check.parameters * check.tokens >= 4 * largest
    assert check.loss == pytest.approx(TRUTH.loss(check.parameters, check.tokens))
    assert abs(check.error) < 1e-3 and check.low <= check.predicted <= check.high
    assert json.loads((directory / "check.json").read_text())["loss"] == check.loss
    assert ladder.read_law(directory / "law.json") == fitted.law
    assert max(fitted.points, key=lambda point: point.parameters).body < max(p.parameters for p in fitted.points)


def test_the_test_has_the_size_that_the_law_takes_for_its_budget(climbed):
    """Of the sizes that get neither too many nor too few tokens for it none is nearer to the optimum."""
    check = climbed[0].check
    compute = FLOPS * check.parameters * check.tokens
    best, _ = TRUTH.optimum(compute)
    sizes = [rungs.size_of(rungs.rung(*shape, 1)) for shape in rungs.SHAPES]
    others = [size for size in sizes if 1.5 <= compute / 6 / size**2 <= 150]
    assert len(others) >= 3 and min(others, key=lambda size: max(size / best, best / size)) == check.parameters


def test_the_page_shows_runs_curves_and_the_test(climbed):
    found, _ = climbed
    for language, word in (("en", "predicted"), ("zh", "预测")):
        page = scaling_page(found, language)
        assert page.count("<svg") == 2 and word in page and f"{found.check.predicted:.4f}" in page
    drawn = isoflop_chart(found.fitted.points, found.fitted.law, "title", alone=True)
    assert drawn.count("<circle") == len(found.fitted.points) and drawn.count("<polyline") == len(rungs.BUDGETS)


def test_each_budget_has_a_curve(climbed):
    """Runs of a budget cost the same within the tolerance, at least three sizes; the lowest place is the law's."""
    points = climbed[0].fitted.points
    found = valleys(points)
    assert len(found) == len(rungs.BUDGETS) and sum(one.runs for one in found) == len(points)
    for one in found:
        if one.inside:
            assert one.parameters == pytest.approx(TRUTH.optimum(one.compute)[0], rel=0.2)


def test_a_plan_is_kept_for_the_same_data_and_made_anew_for_other_data(made_up, tmp_path, monkeypatch):
    first = ladder.climb(["x"], tmp_path, 900.0, 1)
    monkeypatch.setattr(ladder, "paced", lambda *given: Pace(4.0, 0.004, 1e-9))
    again = ladder.climb(["x"], tmp_path, 9000.0, 1)  # with more time the same ladder goes on
    assert again.check == first.check
    slower = ladder.climb(["y"], tmp_path, 900.0, 1)
    assert max(p.compute for p in slower.fitted.points) < max(p.compute for p in first.fitted.points) / 2


@pytest.mark.parametrize("seconds", [120.0, 900.0, 7200.0])
def test_a_plan_fits_the_time_and_uses_it(seconds):
    largest = rungs.largest_for(seconds, PACE, 1)
    assert rungs.seconds_of(largest, PACE, 1) <= 0.85 * seconds < 2 * rungs.seconds_of(largest, PACE, 1)
    runs = rungs.ladder(largest)
    assert sum(map(PACE.seconds, runs)) < rungs.seconds_of(largest, PACE, 1)
    for trial in runs:
        assert rungs.tokens_of(trial) / rungs.size_of(trial) >= 1.48 and trial.settings["pretrain.steps"] >= 40


def test_a_time_that_fits_no_ladder_is_refused():
    with pytest.raises(ResourceError, match="at least about"):
        rungs.largest_for(5.0, PACE, 1)


def test_the_pace_is_found_from_two_runs():
    runs = rungs.pilots()
    seconds = [PACE.seconds(trial) for trial in runs]
    steps = [PACE.step + PACE.operation * FLOPS * rungs.size_of(trial) * 8 * 128 for trial in runs]
    found = rungs.pace_of(runs, seconds, steps)
    assert (found.start, found.step, found.operation) == pytest.approx((PACE.start, PACE.step, PACE.operation))


def test_the_pace_comes_from_the_journals_of_two_runs(monkeypatch, tmp_path):
    """Steps of 10 ms and 50 ms by the median of what the journals have, and 3 s and 5 s in all."""

    def run(directory, setup, trials, budget, report):
        found = {}
        for trial, step, seconds in zip(trials, (0.01, 0.05), (3.0, 5.0), strict=True):
            journal = directory / "trials" / trial.key(setup) / "pretrain" / "metrics.jsonl"
            journal.parent.mkdir(parents=True)
            rows = [{"step": 0, "validation_loss": 5.5}] + [{"step": n, "seconds": s} for n, s in
                                                            ((10, 9.0), (20, step), (30, step))]  # fmt: skip
            journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
            key = trial.key(setup)
            found[key] = Outcome(key, trial.label, trial.settings, 0, 3.0, {}, seconds, seconds)
        return found

    monkeypatch.setattr(ladder, "run_trials", run)
    pace = ladder.paced(tmp_path, Setup(), 60.0)
    small, large = rungs.pilots()
    assert pace.start == pytest.approx(2.0)  # 3 - 60 · 0.01, and 5 - 60 · 0.05: the lower one counts
    assert pace.seconds(small) == pytest.approx(2.0 + 60 * 0.01)
    assert pace.seconds(large) == pytest.approx(2.0 + 60 * 0.05)


def test_a_pilot_that_fails_is_reported(monkeypatch, tmp_path):
    def failed(directory, setup, trials, budget, report):
        return {t.key(setup): Outcome(t.key(setup), "", {}, 0, None, {}, 1.0, 1.0, "no such file") for t in trials}

    monkeypatch.setattr(ladder, "run_trials", failed)
    with pytest.raises(DataError, match="no such file"):
        ladder.paced(tmp_path, Setup(), 10.0)


def test_a_budget_that_ends_before_the_larger_run_leaves_the_prediction(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "run_trials", lambda d, s, t, b, r: trained(d, s, t, b, r) if len(t) > 1 else {})
    check = ladder.climb(["x"], tmp_path, 900.0, 1).check
    assert check.loss is None and check.error is None and check.predicted > 0.9
    assert json.loads((tmp_path / "check.json").read_text())["predicted"] == check.predicted


def test_a_ladder_that_is_not_finished(made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "run_trials", lambda d, s, t, b, r: trained(d, s, t, 5.0, r))
    with pytest.raises(DataError, match="Only 5 runs"):
        ladder.climb(["x"], tmp_path, 900.0, 1)


def test_another_file_is_no_law(tmp_path):
    (tmp_path / "law.json").write_text('{"E": 1}')
    with pytest.raises(DataError, match="not a scaling law"):
        ladder.read_law(tmp_path / "law.json")


# ---- what budgets buy --------------------------------------------------------------------------------------


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


def test_which_preset_a_budget_buys():
    """Few operations are better spent on the smallest, many on the largest; steps are of its own batches."""
    assert [best(offers(REPLICATION, 1.0, Rate(flops))).preset for flops in (1e15, 1e20)] == ["tiny", "medium"]
    for one in offers(REPLICATION, 8 * 3600.0, Rate(1e11)):
        assert one.tokens == pytest.approx(8 * 3600 * 1e11 / 6 / one.parameters)
        assert one.loss == REPLICATION.loss(one.parameters, one.tokens)


def test_wrong_budgets():
    with pytest.raises(ValueError, match="one of"):
        bought(REPLICATION, Rate(1e12), compute=1.0, seconds=1.0)
    with pytest.raises(ValueError, match="no price"):
        bought(REPLICATION, Rate(1e12), dollars=1.0)
    with pytest.raises(UsageError, match="no machine 'h10'"):
        rate_of("h10")
