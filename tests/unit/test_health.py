"""When a training is ill: steps without a finite loss, and losses that leave their path for good."""

import json
import math
from dataclasses import asdict

import pytest

from minigpt.store.stage import is_good
from minigpt.train.health import Health

FALLING = [5 - 0.05 * i for i in range(40)]


def verdicts(losses, health=None, norm=1.0, learns=True, bad_steps=3, spike=1.5):
    health = health or Health()
    return [health.judge(loss, norm, learns, bad_steps, spike) for loss in losses], health


def test_a_loss_that_falls_is_good():
    found, health = verdicts(FALLING)
    assert set(found) == {"good"} and (health.skipped, health.streak, health.high) == (0, 0, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out_and_a_streak_fails(bad):
    found, health = verdicts([1.0, bad, bad, 1.0, bad, bad, bad])
    assert found == ["good", "skip", "skip", "good", "skip", "skip", "failing"]
    assert (health.skipped, health.streak) == (5, 3)
    assert "not finite in 3 steps in a row" in health.reason(bad)


def test_a_gradient_that_is_not_finite_counts_like_a_loss():
    assert verdicts([1.0, 1.0], norm=math.inf)[0] == ["skip", "skip"]


def test_a_batch_without_a_token_to_learn_from_is_left_out_and_never_fails():
    found, health = verdicts([0.0] * 9, learns=False)
    assert set(found) == {"skip"} and (health.skipped, health.streak) == (9, 0)


def test_a_jump_that_stays_fails_and_one_odd_batch_does_not():
    """Above 1.5 x the median of the last losses + 0.5, three times in a row."""
    _, health = verdicts(FALLING)  # the median is about 4
    found, _ = verdicts([8.0, 3.0, 8.0, 8.0, 3.0], health)
    assert set(found) == {"good"} and health.high == 0
    found, _ = verdicts([6.0, 6.0, 6.0, 6.0], health)
    assert set(found) == {"good"}  # a little worse is no jump
    found, _ = verdicts([8.0, 9.0, 10.0], health)
    assert found == ["good", "good", "failing"] and "jumped to 10 from about 4" in health.reason(10.0)


def test_early_losses_and_a_spike_of_0_judge_nothing():
    assert set(verdicts([1.0] * 5 + [50.0] * 4)[0]) == {"good"}
    assert set(verdicts([1.0] * 20 + [50.0] * 5, spike=0.0)[0]) == {"good"}


def test_a_resumed_run_judges_as_the_uninterrupted_one():
    losses = [*FALLING, 8.0, 9.0, math.nan, 10.0, 8.0, 8.5, 9.5]
    whole, _ = verdicts(losses)
    for cut in range(len(losses)):
        first, health = verdicts(losses[:cut])
        again, _ = verdicts(losses[cut:], Health(**json.loads(json.dumps(asdict(health)))))
        assert first + again == whole


def test_which_checkpoints_can_be_gone_back_to():
    assert is_good({"step": 3}) and is_good({"health": asdict(Health())})
    assert not is_good({"health": asdict(Health(high=1))}) and not is_good({"health": asdict(Health(streak=1))})
