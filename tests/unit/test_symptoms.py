"""Rules about curves on made-up ones: what each sees, and what it does not take for a fault."""

import numpy as np

from minigpt.data.shards import MemoryShard
from minigpt.watch.diagnosis import shared_windows
from minigpt.watch.symptoms import RULES, Curves, spikes

STEPS = np.arange(1, 101) * 10.0
FALLING = 4 * STEPS**-0.3


def named(loss, validation=None, norm=None, **settings):
    empty = np.zeros(0), np.zeros(0)
    held_out = (STEPS[9::10], np.asarray(validation)) if validation is not None else empty
    norms = np.ones(100) if norm is None else norm
    curves = Curves((STEPS, np.asarray(loss)), held_out, (STEPS, norms), {"learning_rate": 1e-3} | settings)
    return [one.name for rule in RULES if (one := rule(curves))]


def test_a_power_law_is_sound():
    noise = np.random.default_rng(0).normal(0, 0.03, 100)
    assert named(FALLING + noise, FALLING[9::10] + 0.1) == []


def test_rates():
    assert named(np.linspace(5, 4, 100)) == ["rate too low"] and named(np.full(100, 5.0)) == ["rate too low"]
    assert named(FALLING + np.linspace(0, 1.5, 100)) == ["rate too high"]
    assert named(np.concatenate([[5, 9, 20], FALLING[3:]])) == ["rate too high"]
    assert "1e-05" in RULES[1](Curves((STEPS, np.full(100, 5.0)), (STEPS[:0],) * 2, (STEPS[:0],) * 2,
                                      {"learning_rate": 1e-5})).advice  # fmt: skip


def test_over_fitting_needs_a_training_loss_that_falls():
    rising = [2, 1.5, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9]
    assert named(FALLING, rising) == ["over-fitting"]
    assert "over-fitting" not in named(FALLING[::-1], rising)
    assert named(FALLING, [2, 1.5, 1.2, 1.21, 1.2, 1.205, 1.2, 1.21, 1.205, 1.21]) == []  # noise


def test_clipping():
    assert named(FALLING, norm=np.full(100, 30.0), grad_clip=1.0) == ["always clipped"]
    assert named(FALLING, norm=np.full(100, 30.0), grad_clip=0.0) == named(FALLING, grad_clip=1.0) == []


def test_spikes():
    loss, norm = FALLING.copy(), np.ones(100)
    loss[50], norm[50] = 4.0, 9.0
    loss[70] = 4.0  # without a larger gradient
    assert spikes(Curves((STEPS, loss), (STEPS[:0],) * 2, (STEPS, norm))) == [510]


def test_windows_against_a_search():
    generator = np.random.default_rng(3)
    training, held_out = generator.integers(0, 50, 4000), generator.integers(0, 50, 300)
    held_out[40:100] = training[700:760]
    known = bytes(training.astype(np.uint8).tolist())
    windows = [bytes(held_out[i : i + 20].astype(np.uint8).tolist()) for i in range(0, 281, 20)]
    expected = np.mean([window in known for window in windows])
    assert expected == 3 / 15
    assert shared_windows(*(MemoryShard(x, np.array([len(x)])) for x in (training, held_out)), 20) == expected
