"""The noise scale on gradients whose mean and covariance are known."""

import numpy as np
import pytest

from minigpt.train.probe import noise_of


def test_noise_scale_of_known_gradients():
    """Rows have gradients g + noise of variance 4 in 50 directions: tr = 200, |g|² = 8, so 25 rows."""
    generator, mean = np.random.default_rng(0), np.zeros(50)
    mean[:2] = 2.0
    grads = [mean + generator.normal(0, 2, (10, 50)).mean(0) for _ in range(400)]
    found = noise_of(grads, 10)
    assert found.signal == pytest.approx(8, rel=0.1) and found.noise == pytest.approx(200, rel=0.05)
    assert found.rows == pytest.approx(25, rel=0.12) and found.low < 25 < found.high


def test_it_is_that_of_the_paper():
    """McCandlish et al. 2018, appendix A.1, with a small batch of one and a big one of all gradients."""
    generator = np.random.default_rng(1)
    grads = np.array([1.0, -0.5, 2.0]) + generator.normal(0, 1, (12, 3))
    small, big, count = float((grads**2).sum(1).mean()), float((grads.mean(0) ** 2).sum()), len(grads)
    signal = (count * big - small) / (count - 1)
    noise = (small - big) / (1 / 1 - 1 / count)
    found = noise_of(list(grads), 1)
    assert found.signal == pytest.approx(signal) and found.noise == pytest.approx(noise)


def test_gradients_without_noise():
    found = noise_of([np.ones(4)] * 5, 8)
    assert found.rows == pytest.approx(0, abs=1e-9) and found.signal == pytest.approx(4)
