"""Paired tests against SciPy and statsmodels, their errors under no difference, and the number of rows they ask for."""

import math

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar as theirs_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from minigpt.evaluate.intervals import with_ones
from minigpt.evaluate.significance import (
    compare,
    holm,
    in_words,
    mcnemar,
    needed_rows,
    paired_bootstrap,
    permutation,
    row_spread,
)  # fmt: skip

GENERATOR = np.random.default_rng(0)


def test_mcnemar_is_statsmodels():
    for _ in range(1000):
        better, worse = (int(GENERATOR.integers(0, GENERATOR.choice([3, 40, 3000]))) for _ in range(2))
        expected = theirs_mcnemar([[5, better], [worse, 5]], exact=True).pvalue if better + worse else 1.0
        assert mcnemar(better, worse, mid=False) == pytest.approx(min(1.0, expected), abs=1e-6)
        point = scipy.stats.binom.pmf(min(better, worse), better + worse, 0.5)
        twice = 2 * scipy.stats.binom.cdf(min(better, worse), better + worse, 0.5)
        assert mcnemar(better, worse) == pytest.approx(min(1.0, twice - point) if better + worse else 1.0, abs=1e-6)


@pytest.mark.parametrize("size", range(2, 13))
def test_permutation_of_few_rows_is_scipys(size):
    for _ in range(20):
        a, b = GENERATOR.integers(0, 6, (2, size)).astype(float)  # whole numbers: equal sums are equal, not nearly so
        settings = {"permutation_type": "samples", "n_resamples": np.inf, "vectorized": True}
        expected = scipy.stats.permutation_test((a, b), lambda x, y, axis: (x - y).sum(axis), **settings).pvalue
        assert permutation(with_ones(a), with_ones(b)) == pytest.approx(expected, abs=1e-6)


def test_permutation_of_many_rows_is_near_the_normal_law():
    a, b = GENERATOR.normal(size=(2, 400)) + [[0], [0.1]]
    d = b - a
    expected = 2 * scipy.stats.norm.sf(abs(d.sum()) / math.sqrt((d**2).sum()))
    assert permutation(with_ones(a), with_ones(b)) == pytest.approx(expected, abs=0.015)


def test_paired_bootstrap_is_near_the_normal_law():
    a, b = GENERATOR.normal(size=(2, 400)) + [[0], [0.1]]
    d = b - a
    expected = 2 * scipy.stats.norm.sf(abs(d.mean()) / (d.std() / 20))
    assert paired_bootstrap(with_ones(a), with_ones(b), resamples=5000) == pytest.approx(expected, abs=0.02)


def test_holm_is_statsmodels(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # which statsmodels calls every time: 0.1 s
    for _ in range(1000):
        p = GENERATOR.random(int(GENERATOR.integers(1, 12))).round(2)
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], atol=1e-12)


def test_needed_rows_is_statsmodels():
    for _ in range(200):
        difference, spread = float(GENERATOR.choice([-1, 1])), float(GENERATOR.uniform(2, 20))
        expected = NormalIndPower(ddof=0).solve_power(abs(difference) / spread, power=0.8, alpha=0.05, ratio=0)
        assert abs(needed_rows(difference, spread) - expected) <= 1.01  # we round up


def test_so_many_rows_do_find_the_difference():
    """Simulated: right-or-wrong answers of 70 and 76 %, three in four of them decided alike."""
    generator = np.random.default_rng(7)

    def answers(rows):
        common = generator.random(rows) < 0.75
        draws = np.where(common, generator.random((1, rows)), generator.random((2, rows)))
        return [with_ones(draw < share) for draw, share in zip(draws, (0.70, 0.76), strict=True)]

    needed = needed_rows(0.06, row_spread(*answers(100_000)))
    found = np.mean([compare(*answers(needed), resamples=50).p < 0.05 for _ in range(400)])
    assert 0.74 < found < 0.86


def test_compare_chooses_its_test_and_counts_rows():
    right = with_ones(GENERATOR.random((2, 200))[0] < 0.5), with_ones(GENERATOR.random(200) < 0.8)
    found = compare(*right)
    better, worse = ((right[1] - right[0])[:, 0] == sign for sign in (1, -1))
    assert (found.test, found.rows, found.p) == ("McNemar, mid-p", 200, mcnemar(better.sum(), worse.sum()))
    assert found.low < found.value < found.high and found.value == pytest.approx(found.second - found.first)
    scores = compare(*(with_ones(GENERATOR.random(50)) for _ in range(2)))
    assert scores.test == "paired permutation"


def test_rows_of_other_questions_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        compare(np.ones((3, 2)), np.ones((4, 2)))


@pytest.mark.parametrize("shift, words", [
    (0.0, "could be chance"), (2.0, "Chance alone would hardly do this"),
])  # fmt: skip
def test_in_words(shift, words):
    a, b = GENERATOR.normal(size=(2, 60)) + [[0], [shift]]
    sentence = in_words("chrf", compare(with_ones(a), with_ones(b)))
    assert words in sentence and ("rows" in sentence) == (shift == 0.0)
    assert "the second is ahead" in sentence or shift == 0.0


def test_in_words_says_how_many_rows_would_show_it():
    a = np.arange(40) % 2
    b = np.where(np.arange(40) == 0, 1, a)  # one row better of 40: spread √(1/40 · 39/40 · 40/39) = 0.158
    found = compare(with_ones(a), with_ones(b))
    assert found.needed == math.ceil(((1.959964 + 0.841621) * np.std(b - a, ddof=1) / 0.025) ** 2) == 314
    assert in_words("exact_match", found).endswith("about 314 rows would show it.")
    assert "first is ahead" in in_words("loss", found, higher_is_better=False)
    assert in_words("f1", compare(with_ones(a), with_ones(a))) == "f1: the two are equal on these 40 rows."


@pytest.mark.parametrize("kind", ["mcnemar", "permutation", "bootstrap"])
def test_type_one_error(kind):
    """A quick slice of `scripts/evaluation_checks.py`: models that are equally good are called different at most 5 %
    of the time (1,000 samples: two standard errors are 1.4 points)."""
    wrong = 0
    for seed in range(1000):
        if kind == "mcnemar":
            a, b = GENERATOR.random((2, 100)) < 0.6
            wrong += mcnemar(int((b & ~a).sum()), int((a & ~b).sum())) < 0.05
        else:
            a, b = (with_ones(x) for x in GENERATOR.normal(size=(2, 100)))
            test = permutation(a, b, seed=seed, swaps=400) if kind == "permutation" else paired_bootstrap(
                a, b, seed=seed, resamples=400)  # fmt: skip
            wrong += test < 0.05
    assert wrong / 1000 <= 0.055 + 0.014, wrong
