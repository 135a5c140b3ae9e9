"""Intervals: against SciPy and statsmodels, and a quick look at how often they hold the truth."""

import math

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

from minigpt.evaluate.intervals import Figure, bootstrap, interval, jackknife, mean, resampled_sums, wilson, with_ones

GENERATOR = np.random.default_rng(0)


def ratio(sums):
    return sums[..., 0] / sums[..., 1]


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_interval_of_the_same_draws_is_scipys(method):
    for _ in range(200):
        rows = GENERATOR.exponential(size=int(GENERATOR.integers(5, 60)))
        drawn = GENERATOR.choice(rows, (500, len(rows))).mean(1)
        theirs = scipy.stats.bootstrap((rows,), np.mean, n_resamples=9, method="percentile", rng=0)
        theirs.bootstrap_distribution = drawn
        theirs = scipy.stats.bootstrap((rows,), np.mean, n_resamples=0, method=method, bootstrap_result=theirs)
        without = (rows.sum() - rows) / (len(rows) - 1)
        found = interval(rows.mean(), drawn, without if method == "BCa" else None)
        np.testing.assert_allclose(found, theirs.confidence_interval, atol=1e-6)


def test_wilson_is_statsmodels():
    for _ in range(1000):
        n = int(GENERATOR.integers(1, 2000))
        right = int(GENERATOR.choice([0, n, GENERATOR.integers(0, n + 1)]))
        found = wilson(right, n)
        np.testing.assert_allclose((found.low, found.high), proportion_confint(right, n, method="wilson"), atol=1e-9)
        assert (found.value, found.rows) == (right / n, n)


def test_drawn_sums_are_sums_of_drawn_rows():
    """Rows that are powers of 10 show in the digits of a sum how often each was drawn."""
    rows = 10.0 ** np.arange(6)[:, None]
    sums = resampled_sums(rows, seed=1, resamples=4000)[:, 0]
    digits = np.array([[int(d) for d in f"{int(x):06d}"] for x in sums])
    assert (digits.sum(1) == 6).all()
    np.testing.assert_allclose(digits.mean(0), 1.0, atol=0.06)  # each row is drawn once on average,
    np.testing.assert_allclose(digits.var(0), 5 / 6, atol=0.08)  # binomially: n p (1 - p)


def test_many_rows_are_drawn_in_portions_and_the_seed_decides(monkeypatch):
    rows = with_ones(GENERATOR.normal(size=300))
    whole = bootstrap(rows, seed=5)
    assert whole == bootstrap(rows, seed=5) != bootstrap(rows, seed=6)
    monkeypatch.setattr("minigpt.evaluate.intervals.AT_ONCE", 7 * 300)
    portions = bootstrap(rows, seed=5)
    np.testing.assert_allclose((portions.low, portions.high), (whole.low, whole.high), atol=0.01)
    assert resampled_sums(rows, 5, 100).shape == (100, 2) and (resampled_sums(rows, 5, 100)[:, 1] == 300).all()


def test_a_statistic_of_several_sums():
    x, y = GENERATOR.gamma(2, size=80), GENERATOR.gamma(3, size=80)
    found = bootstrap(np.stack([x, y], 1), ratio)
    theirs = scipy.stats.bootstrap((x, y), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True,
                                   n_resamples=20_000, rng=1).confidence_interval  # fmt: skip
    assert found.value == pytest.approx(x.sum() / y.sum())
    np.testing.assert_allclose((found.low, found.high), theirs, rtol=0.02)


def test_jackknife_of_a_mean_is_the_standard_error():
    x = GENERATOR.normal(size=50)
    found = jackknife(x.mean(), (x.sum() - x) / 49)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * x.std(ddof=1) / math.sqrt(50), rel=1e-6)


@pytest.mark.parametrize("rows, low, high", [(0, math.nan, math.nan), (1, -math.inf, math.inf)])
def test_too_few_rows_have_no_interval(rows, low, high):
    np.testing.assert_equal(bootstrap(np.ones((rows, 2)), mean).__dict__["low"], low)
    np.testing.assert_equal(bootstrap(np.ones((rows, 2)), mean).__dict__["high"], high)


def test_equal_rows_have_an_interval_of_one_point():
    assert bootstrap(with_ones(np.full(20, 0.5))) == Figure(0.5, 0.5, 0.5, 20)


def test_figure_in_words():
    assert Figure(0.8125, 0.7741, 0.8461, 3000).said() == "0.812 (0.774 to 0.846, 3,000 rows)"


def test_coverage_of_the_intervals():
    """A quick slice of `scripts/evaluation_checks.py`: 600 samples; two standard errors of 95 % are 1.8 points."""
    held = {"mean": 0, "ratio": 0, "share": 0}
    for seed in range(600):
        normal = GENERATOR.normal(size=(120, 2)) + [2, 4]
        share = GENERATOR.random(120) < 0.9
        for name, found, truth in (
            ("mean", bootstrap(with_ones(normal[:, 0]), seed=seed, resamples=500), 2.0),
            ("ratio", bootstrap(normal, ratio, seed=seed, resamples=500), 0.5),
            ("share", wilson(share.sum(), 120), 0.9),
        ):
            held[name] += found.low <= truth <= found.high
    assert all(0.93 - 0.012 <= count / 600 <= 0.97 + 0.012 for count in held.values()), held
