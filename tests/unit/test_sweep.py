"""Sweeps without training: what is tried, what the table says, what a kill leaves of the results; Student's t."""

import json
import math
import re

import numpy as np
import pytest
import scipy.stats

from minigpt.errors import UsageError
from minigpt.evaluate import student
from minigpt.experiments.sweep import Sweep, combinations, flattened, label_of, read_sweep, table
from minigpt.experiments.trials import (
    RESULTS,
    Outcome,
    Setup,
    Trial,
    append_outcome,
    arguments,
    measured,
    read_outcomes,
)
from minigpt.pages.whiskers import Bounded, whiskers

GENERATOR = np.random.default_rng(0)


def outcome(label, settings, seed, value, failed=""):
    return Outcome(f"{label}{seed}", label, settings, seed, value, {}, 1.0, 1.0, failed)


# ---- Student's t -------------------------------------------------------------------------------------------


def test_student_is_scipys():
    for freedom in (1, 2, 3, 7, 30, 400):
        for t in (-5.0, -1.0, 0.0, 0.3, 2.5, 40.0):
            assert student.cdf(t, freedom) == pytest.approx(scipy.stats.t.cdf(t, freedom), abs=1e-9)
        assert student.quantile(0.975, freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-8)


def test_means_and_pairs_are_scipys():
    for _ in range(200):
        a, b = GENERATOR.normal(size=(2, int(GENERATOR.integers(2, 8))))
        found = student.mean_interval(a)
        low, high = scipy.stats.t.interval(0.95, len(a) - 1, a.mean(), scipy.stats.sem(a))
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-8)
        difference, p = student.paired(a, b)
        theirs = scipy.stats.ttest_rel(b, a)
        assert p == pytest.approx(theirs.pvalue, abs=1e-8)
        assert (difference.low, difference.high) == pytest.approx(tuple(theirs.confidence_interval()), abs=1e-8)


def test_one_run_has_no_interval():
    assert math.isinf(student.mean_interval([2.0]).high) and math.isnan(student.paired([1.0], [2.0])[1])


# ---- what is tried -----------------------------------------------------------------------------------------


def test_grid_has_every_combination():
    found = combinations(Sweep(grid={"pretrain.learning_rate": [0.1, 0.2], "model.n_layer": [1, 2]}))
    assert [settings for _, settings in found] == [
        {"pretrain.learning_rate": rate, "model.n_layer": n} for rate in (0.1, 0.2) for n in (1, 2)
    ]
    assert found[0][0] == "learning_rate=0.1 n_layer=1"


def test_ablation_changes_one_thing_at_a_time():
    found = combinations(Sweep(changes={"no QK norm": {"model.qk_norm": False}}))
    assert found == [("base", {}), ("no QK norm", {"model.qk_norm": False})]


def test_random_draws_in_bounds_and_the_seed_decides():
    space = {"a.rate": {"low": 1e-4, "high": 1e-1, "log": True}, "a.n": {"low": 1, "high": 3}, "a.kind": ["x", "y"]}
    found = [settings for _, settings in combinations(Sweep(random=space, trials=300, seed=4))]
    assert found == [settings for _, settings in combinations(Sweep(random=space, trials=300, seed=4))]
    rates = np.log10([s["a.rate"] for s in found])
    assert -4 <= rates.min() < -3.8 and -1.2 < rates.max() <= -1 and abs(rates.mean() + 2.5) < 0.15
    assert {s["a.n"] for s in found} == {1, 2, 3} and {s["a.kind"] for s in found} == {"x", "y"}


def test_a_space_that_cannot_be_drawn_from():
    with pytest.raises(UsageError, match="cannot be drawn from"):
        combinations(Sweep(random={"a": {"low": 1}}))


def test_settings_by_dots_or_by_tables():
    assert flattened({"pretrain": {"steps": 3}, "model.n_layer": 1}) == {"pretrain.steps": 3, "model.n_layer": 1}
    assert flattened({"a": {"b": {"low": 1, "high": 2}}}, ("low",)) == {"a.b": {"low": 1, "high": 2}}
    assert label_of({}) == "base"


@pytest.mark.parametrize("text, words", [
    ("data = ['x']", "needs one of"), ("[grid]\na = [1]\n[changes.b]\nc = 1", "needs one of"),
    ("sed = [1]\n[grid]\na = [1]", "sed"), ("seeds = [", "not valid TOML"), ("seeds = []\n[grid]\na = [1]", "seeds"),
])  # fmt: skip
def test_a_wrong_file_is_refused(tmp_path, text, words):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_sweep(tmp_path / "s.toml")


def test_a_file_is_read(tmp_path):
    text = "seeds = [1, 2]\n[base.pretrain]\nsteps = 5\n[grid.pretrain]\nlearning_rate = [1e-3]"
    (tmp_path / "s.toml").write_text(text)
    sweep = read_sweep(tmp_path / "s.toml")
    assert (sweep.seeds, sweep.base, sweep.grid) == ([1, 2], {"pretrain.steps": 5}, {"pretrain.learning_rate": [0.001]})


# ---- trials ------------------------------------------------------------------------------------------------


def test_the_command_of_a_trial():
    setup = Setup(data=("a.txt",), base={"model.n_layer": 2, "pretrain.steps": 9}, device="cpu")
    trial = Trial("x", {"pretrain.steps": 5, "model.qk_norm": False, "pretrain.optimizer": "muon"}, 3)
    words = " ".join(arguments(setup, trial))
    for part in ("train pretrain", "--seed 3", "--data a.txt", "--set pretrain.steps=5", "--set model.qk_norm=false",
                 "--set pretrain.optimizer=muon", "--set model.n_layer=2", "--device cpu"):  # fmt: skip
        assert part in words
    same = Trial("another label", dict(reversed(trial.settings.items())), 3)
    assert same.key(setup) == trial.key(setup) != Trial("x", trial.settings, 4).key(setup)


def test_results_survive_a_kill_in_the_middle_of_a_line(tmp_path):
    first, second = outcome("a", {"x.y": 1}, 0, 1.5), outcome("b", {}, 1, None, "broke")
    append_outcome(tmp_path, first)
    with (tmp_path / RESULTS).open("ab") as file:
        file.write(b'{"key": "torn", "lab')
    assert read_outcomes(tmp_path) == {first.key: first}
    append_outcome(tmp_path, second)
    assert read_outcomes(tmp_path) == {first.key: first, second.key: second}


def test_measured(tmp_path):
    rows = [{"step": 0, "validation_loss": 0.1}, {"step": 5, "validation_loss": 3.0}, {"step": 5, "loss": 1.0},
            {"step": 9, "validation_loss": 4.0}]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert measured(tmp_path / "m.jsonl", "validation_loss") == rows[1]  # not the one before training
    assert measured(tmp_path / "m.jsonl", "validation_loss", "last") == rows[3]
    assert measured(tmp_path / "m.jsonl", "other") == measured(tmp_path / "none", "loss") == {}


# ---- the table ---------------------------------------------------------------------------------------------


def test_table_against_scipy():
    chosen = [("base", {}), ("better", {"a.b": 1}), ("worse", {"a.b": 2})]
    values = {"base": [2.0, 2.2, 2.1], "better": [1.8, 1.95, 1.9], "worse": [2.0, 2.3, 2.25]}
    outcomes = [outcome(label, settings, seed, values[label][seed]) for label, settings in chosen for seed in range(3)]
    rows = table(Sweep(changes={"x": {"a.b": 1}}), chosen, outcomes)
    assert [row.label for row in rows] == ["better", "base", "worse"]
    better, base, worse = rows
    p = [scipy.stats.ttest_rel(values[label], values["base"]).pvalue for label in ("better", "worse")]
    assert better.p == pytest.approx(min(1, 2 * p[0])) and worse.p == pytest.approx(max(2 * p[0], p[1]))  # Holm
    assert base.difference is None and math.isnan(base.p)
    assert better.difference.value == pytest.approx(np.mean(values["better"]) - np.mean(values["base"]))


def test_failed_trials_are_counted_and_pairs_are_of_the_same_seeds():
    chosen = [("base", {}), ("change", {"a.b": 1}), ("broken", {"a.b": 2})]
    outcomes = [
        outcome("base", {}, 0, 2.0), outcome("base", {}, 1, 3.0), outcome("base", {}, 2, 4.0),
        outcome("change", {"a.b": 1}, 1, 2.5), outcome("change", {"a.b": 1}, 2, 3.6),
        outcome("change", {"a.b": 1}, 0, None, "broke"), outcome("broken", {"a.b": 2}, 0, None, "broke"),
    ]  # fmt: skip
    base, change, broken = table(Sweep(changes={"x": {"a.b": 1}}), chosen, outcomes)
    assert (change.figure.rows, change.failed) == (2, 1)
    assert change.difference.value == pytest.approx(-0.45) and change.difference.rows == 2  # seeds 1 and 2
    assert (broken.label, broken.figure.rows, broken.failed) == ("broken", 0, 1) and base.label == "base"


def test_the_file_may_name_the_baseline():
    chosen = [("1", {"a": 1}), ("2", {"a": 2})]
    rows = table(Sweep(grid={"a": [1, 2]}, baseline={"a": 2}), chosen, [outcome("1", {"a": 1}, 0, 1.0),
                                                                         outcome("2", {"a": 2}, 0, 2.0)])  # fmt: skip
    assert rows[0].difference.value == -1.0 and rows[1].difference is None


# ---- the picture -------------------------------------------------------------------------------------------


def test_the_picture_has_values_and_bounds_on_one_linear_scale():
    """Places on paper against the straight line through two of them; an interval without an end has no line."""
    rows = [Bounded("base", 1.0, 0.8, 1.2), Bounded("<change>", 1.5, 1.4, 1.9),
            Bounded("one seed", 1.1, -math.inf, math.inf), Bounded("failed", *[math.nan] * 3)]  # fmt: skip
    drawn = whiskers(rows, "a title")
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    lines = [tuple(map(float, one)) for one in
             re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]*stroke-width', drawn)]  # fmt: skip
    slope = (dots[1] - dots[0]) / (1.5 - 1.0)
    assert len(dots) == 3 and len(lines) == 2 and "&lt;change&gt;" in drawn
    assert dots[2] == pytest.approx(dots[0] + 0.1 * slope, abs=0.2)
    for row, (low, high) in zip(rows, lines, strict=False):
        ends = dots[0] + (row.low - 1.0) * slope, dots[0] + (row.high - 1.0) * slope
        assert (low, high) == pytest.approx(ends, abs=0.2)
