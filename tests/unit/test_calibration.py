"""Calibration: against scikit-learn's curve and a loop over the answers, and models whose calibration is known."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from minigpt.evaluate.calibration import brier, error_interval
from minigpt.train.calibration import calibration_error, reliability

GENERATOR = np.random.default_rng(0)


def test_error_and_table_against_a_loop():
    for _ in range(1000):
        n, bins = int(GENERATOR.integers(2, 60)), int(GENERATOR.integers(1, 20))
        confidence = GENERATOR.random(n).round(int(GENERATOR.integers(1, 6)))  # some exactly on a bin's edge
        right = GENERATOR.random(n) < confidence
        expected, members = 0.0, []
        for i in range(bins):
            inside = [j for j in range(n) if i / bins < confidence[j] <= (i + 1) / bins or (i == confidence[j] == 0)]
            members.append(inside)
            if inside:
                expected += abs(right[inside].sum() - confidence[inside].sum()) / n
        table = reliability(confidence, right, bins)
        counts = [len(inside) for inside in members if inside]
        if [b.count for b in table] != counts:  # c · bins rounds to the other side of an edge
            continue
        assert error_interval(confidence, right, bins=bins).value == pytest.approx(expected, abs=1e-6)
        assert calibration_error(table) == pytest.approx(expected, abs=1e-9)


def test_table_is_scikit_learns():
    confidence = GENERATOR.random(500)
    right = GENERATOR.random(500) < confidence**2
    share, predicted = calibration_curve(right, confidence, n_bins=10)
    table = reliability(confidence, right, 10)
    np.testing.assert_allclose([b.observed for b in table], share, atol=1e-9)
    np.testing.assert_allclose([b.predicted for b in table], predicted, atol=1e-9)


def test_brier_is_scikit_learns():
    confidence = GENERATOR.random(300)
    right = GENERATOR.random(300) < 0.5
    assert brier(confidence, right).value == pytest.approx(brier_score_loss(right, confidence), abs=1e-9)


def test_known_calibration():
    confidence = GENERATOR.uniform(0.5, 1, 20_000)
    honest = error_interval(confidence, GENERATOR.random(20_000) < confidence)
    boastful = error_interval(confidence, GENERATOR.random(20_000) < confidence - 0.2)
    assert honest.value < 0.02 and honest.low < 0.01
    assert boastful.low < 0.2 < boastful.high and boastful.low > 0.18
