"""Agreement of raters: against scikit-learn, statsmodels, krippendorff, analysis of variance, a published table."""

import krippendorff
import numpy as np
import pandas
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.inter_rater import fleiss_kappa as theirs_fleiss

from minigpt.evaluate.agreement import cohen_kappa, fleiss_kappa, icc, krippendorff_alpha

GENERATOR = np.random.default_rng(0)
# Shrout and Fleiss 1979, table 2: four judges, six targets; table 4: the six coefficients.
SHROUT = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
PUBLISHED = {"1,1": 0.17, "2,1": 0.29, "3,1": 0.71, "1,k": 0.44, "2,k": 0.62, "3,k": 0.91}


def two_raters():
    """Two raters of 2 to 40 things in 2 to 6 categories, who agree on about half of them."""
    size, kinds = GENERATOR.integers(2, 40), GENERATOR.integers(2, 7)
    first, other = GENERATOR.integers(0, kinds, (2, size))
    return first, np.where(GENERATOR.random(size) < 0.5, first, other)


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_cohen_is_scikit_learns(weights):
    compared = 0
    for _ in range(250):
        first, second = two_raters()
        if len({*first, *second}) < 2:
            continue
        expected = cohen_kappa_score(first, second, weights=None if weights == "none" else weights)
        assert cohen_kappa(first, second, weights) == pytest.approx(expected, abs=1e-6, nan_ok=True)
        compared += 1
    assert compared > 220


def test_cohen_of_words():
    first, second = ["yes", "no", "yes", "no"], ["yes", "no", "no", "no"]
    assert cohen_kappa(first, second) == pytest.approx((0.75 - 0.5) / 0.5)
    assert np.isnan(cohen_kappa(["yes"] * 3, ["yes"] * 3))


def test_fleiss_is_statsmodels():
    for _ in range(1000):
        table = GENERATOR.multinomial(int(GENERATOR.integers(2, 9)), GENERATOR.dirichlet(np.ones(4)), 12)
        if (table.sum(0) > 0).sum() > 1:
            assert fleiss_kappa(table) == pytest.approx(theirs_fleiss(table), abs=1e-6)


def test_fleiss_refuses_subjects_with_fewer_raters():
    with pytest.raises(ValueError, match="same number of raters"):
        fleiss_kappa([[2, 1], [1, 1]])


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_krippendorff_is_krippendorffs(level):
    compared = 0
    for _ in range(1000):
        ratings = GENERATOR.integers(0, 5, (GENERATOR.integers(2, 5), GENERATOR.integers(2, 15))).astype(float)
        ratings[GENERATOR.random(ratings.shape) < 0.25] = np.nan
        paired = ratings[:, (~np.isnan(ratings)).sum(0) >= 2]
        if len(np.unique(paired[~np.isnan(paired)])) < 2:
            assert np.isnan(krippendorff_alpha(ratings, level))
            continue
        expected = krippendorff.alpha(ratings, level_of_measurement=level)
        assert krippendorff_alpha(ratings, level) == pytest.approx(expected, abs=1e-6)
        compared += 1
    assert compared > 900


def test_krippendorff_refuses_an_unknown_level():
    with pytest.raises(ValueError, match="nominal, ordinal or interval"):
        krippendorff_alpha([[0, 1], [1, 1]], "cubic")


@pytest.mark.parametrize("kind", PUBLISHED)
def test_icc_of_the_published_table(kind):
    assert icc(SHROUT, kind) == pytest.approx(PUBLISHED[kind], abs=0.005)


def test_icc_from_an_analysis_of_variance():
    """McGraw and Wong's formulas on the mean squares that statsmodels finds."""
    for _ in range(20):
        n, k = GENERATOR.integers(3, 12), GENERATOR.integers(2, 6)
        scores = GENERATOR.normal(size=(n, 1)) + 0.3 * GENERATOR.normal(size=(1, k)) + GENERATOR.normal(size=(n, k))
        columns = {"row": np.repeat(range(n), k), "column": np.tile(range(k), n)}
        long = pandas.DataFrame({"score": scores.ravel()} | columns)
        found = anova_lm(ols("score ~ C(row) + C(column)", long).fit())
        rows, columns, rest = found["sum_sq"] / found["df"]
        assert icc(scores, "2,1") == pytest.approx(
            (rows - rest) / (rows + (k - 1) * rest + k / n * (columns - rest)), abs=1e-6
        )
        assert icc(scores, "3,1") == pytest.approx((rows - rest) / (rows + (k - 1) * rest), abs=1e-6)
        within = (found["sum_sq"].iloc[1] + found["sum_sq"].iloc[2]) / (n * (k - 1))
        assert icc(scores, "1,1") == pytest.approx((rows - within) / (rows + (k - 1) * within), abs=1e-6)
