"""Rankings by votes: strengths against a logistic regression, Dawid and Skene's algorithm written as loops, power."""

import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from sklearn.metrics import accuracy_score

from minigpt.evaluate.intervals import wilson
from minigpt.evaluate.ranking import (
    ELO_SCALE,
    bradley_terry,
    dawid_skene,
    elo,
    needed_votes,
    position_bias,
    rated,
    win_rate,
    wins_of,
)  # fmt: skip

GENERATOR = np.random.default_rng(0)


def votes_of(strengths, count, generator=GENERATOR, ties=0.0):
    """Votes between random pairs of players, decided by Bradley-Terry's law."""
    found = []
    for _ in range(count):
        first, second = (int(i) for i in generator.choice(len(strengths), 2, replace=False))
        wins = generator.random() < 1 / (1 + math.exp(strengths[second] - strengths[first]))
        found.append((first, second, 0.5 if generator.random() < ties else float(wins)))
    return found


def test_win_rate():
    assert win_rate([1, 1, 0, 1]) == wilson(3, 4)
    found = win_rate([1, 0.5, 0, 0.5] * 25)
    assert found.value == 0.5 and found.low < 0.5 < found.high and found.rows == 100


def test_bradley_terry_is_a_logistic_regression():
    """One regressor per player, +1 where he stands first and -1 where second, without an intercept."""
    for _ in range(30):
        players = int(GENERATOR.integers(2, 6))
        votes = votes_of(GENERATOR.normal(size=players), 300)
        design = np.zeros((300, players))
        for row, (first, second, _) in zip(design, votes, strict=True):
            row[first], row[second] = 1, -1
        fit = sm.GLM([v[2] for v in votes], design[:, 1:], family=sm.families.Binomial()).fit(tol=1e-12)
        expected = np.array([0, *fit.params])
        found = bradley_terry(wins_of(votes, players))
        np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-6)


def test_bradley_terry_without_a_loss_stays_finite():
    found = bradley_terry(np.array([[0, 5], [0, 0]]), prior=1.0)
    assert found[0] - found[1] == pytest.approx(math.log(5.5 / 0.5), abs=1e-6)
    assert np.isfinite(bradley_terry(np.array([[0, 5, 1], [0, 0, 1], [1, 1, 0]]))).all()


def test_rated_players_keep_their_order_and_intervals_hold_the_truth():
    strengths = np.array([-0.8, 0.0, 0.8])
    held = 0
    for seed in range(8):
        found = rated(votes_of(strengths, 200, np.random.default_rng(seed), ties=0.1), 3, seed)
        truth = 1000 + ELO_SCALE * 0.9 * strengths  # a tenth are ties, which pull together; roughly
        held += sum(f.low <= t <= f.high for f, t in zip(found, truth, strict=True))
        assert sum(f.rows for f in found) == 400
    assert held >= 20  # of 24


def test_elo_by_hand():
    """Equal players: the winner takes k / 2. Then 1008 against 992: expected 1 / (1 + 10^(-16/400)) = 0.52301."""
    found = elo([(0, 1, 1.0), (0, 1, 0.0)], 2)
    np.testing.assert_allclose(found, [1008 - 16 * 0.523010, 992 + 16 * 0.523010], atol=1e-4)
    assert elo(votes_of([0, 1, 2], 200), 3).sum() == pytest.approx(3000)


def loops(ratings, classes, iterations):
    """Dawid and Skene's algorithm as their paper writes it: equations 2.3, 2.4 and 2.5."""
    items, raters = ratings.shape
    truth = np.zeros((items, classes))
    for i in range(items):
        said = [r for r in ratings[i] if r >= 0]
        for c in range(classes):
            truth[i, c] = said.count(c) / len(said) if said else 1 / classes
    for _ in range(iterations):
        confusion, share = np.zeros((raters, classes, classes)), truth.mean(0)
        for r in range(raters):
            for c in range(classes):
                for label in range(classes):
                    confusion[r, c, label] = sum(truth[i, c] for i in range(items) if ratings[i, r] == label)
                if total := confusion[r, c].sum():
                    confusion[r, c] /= total
        for i in range(items):
            for c in range(classes):
                product = share[c]
                for r in range(raters):
                    product *= confusion[r, c, ratings[i, r]] if ratings[i, r] >= 0 else 1.0
                truth[i, c] = product
            truth[i] /= truth[i].sum()
    return truth, confusion


def rater_table(generator, items, accuracies, classes=3, missing=0.1):
    truth = generator.integers(0, classes, items)
    right = generator.random((items, len(accuracies))) < accuracies
    ratings = np.where(right, truth[:, None], (truth[:, None] + generator.integers(1, classes, right.shape)) % classes)
    return truth, np.where(generator.random(right.shape) < missing, -1, ratings)


def test_dawid_skene_against_loops():
    for _ in range(5):
        _, ratings = rater_table(GENERATOR, 20, np.array([0.9, 0.7, 0.6, 0.4]))
        for iterations in (1, 6):
            truth, confusion = loops(ratings, 3, iterations)
            found = dawid_skene(ratings, 3, iterations)
            np.testing.assert_allclose(found.labels, truth, atol=1e-6)
            np.testing.assert_allclose(found.raters, confusion, atol=1e-6)


def test_dawid_skene_finds_the_raters_who_guess():
    """Two good raters among five who guess: the majority is worse, and the reliabilities are found."""
    accuracies = np.array([0.95, 0.95, 0.35, 0.35, 0.35, 0.35, 0.35])
    truth, ratings = rater_table(np.random.default_rng(3), 600, accuracies)
    found = dawid_skene(ratings, 3)
    majority = np.array([np.bincount(row[row >= 0], minlength=3).argmax() for row in ratings])
    assert accuracy_score(truth, found.labels.argmax(1)) > accuracy_score(truth, majority) + 0.1
    np.testing.assert_allclose(found.reliability, accuracies, atol=0.08)


def test_items_without_ratings_get_the_classes_frequencies():
    found = dawid_skene(np.array([[0, 0], [1, 1], [0, 0], [-1, -1]]), 2)
    np.testing.assert_allclose(found.labels[3], found.classes, atol=1e-6)


@pytest.mark.parametrize("share", [0.55, 0.6, 0.7, 0.35])
def test_so_many_votes_have_the_power(share):
    n = needed_votes(share)
    rejected = [k for k in range(n + 1) if abs(k - n / 2) > 1.959964 * math.sqrt(n) / 2]
    assert scipy.stats.binom.pmf(rejected, n, share).sum() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("share", [0.5, 0.0, 1.0])
def test_no_number_of_votes_is_enough(share):
    with pytest.raises(ValueError, match="any number of votes"):
        needed_votes(share)


def test_position_bias():
    """A judge who always takes the left one, one who never does, and one who is moved in 3 of 10 pairs."""
    assert position_bias([(1, 1)] * 8).left.value == 1 and position_bias([(1, 1)] * 8).steady.value == 0
    assert position_bias([(1, 0), (0, 1)]).left.value == 0.5 and position_bias([(1, 0), (0, 1)]).steady.value == 1
    found = position_bias([(1, 0)] * 4 + [(0, 1)] * 3 + [(1, 1)] * 3)
    assert (found.left.value, found.steady.value) == (0.65, 0.7) and found.left.rows == 10
