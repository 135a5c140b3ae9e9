"""Learning-rate schedules at the steps that matter, in plain numbers."""

import pytest

from minigpt.sections import StageConfig
from minigpt.train.optim import rate


def rates(**settings):
    config = StageConfig(**settings)
    return [rate(config, step) for step in range(config.steps)]


def test_warm_up_climbs_in_equal_steps_to_the_top():
    for schedule in ("cosine", "linear", "hold"):
        assert rates(steps=20, warmup_steps=3, schedule=schedule)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_linear():
    """From the top at step 2 to a tenth at step 10, by the same 0.1125 every step."""
    found = rates(steps=11, warmup_steps=2, schedule="linear", final_fraction=0.1)
    assert found[2:] == pytest.approx([1.0 - 0.9 * i / 8 for i in range(9)])
    assert found[-1] == pytest.approx(0.1)


def test_cosine():
    """At the quarters: (1 + cos 45°) / 2 = 0.853553, half way, (1 - cos 45°) / 2 = 0.146447."""
    found = rates(steps=11, warmup_steps=2, schedule="cosine", final_fraction=0.0)
    assert [found[step] for step in (2, 4, 6, 8, 10)] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    found = rates(steps=11, warmup_steps=2, schedule="cosine", final_fraction=0.2)
    assert [found[step] for step in (2, 6, 10)] == pytest.approx([1, 0.6, 0.2])


def test_hold():
    """100 steps, the last 40 of which fall: high up to step 60, half way down at 79.5, the end at 99."""
    found = rates(steps=100, warmup_steps=10, schedule="hold", decay_fraction=0.4, final_fraction=0.0)
    assert found[10:61] == [1.0] * 51
    assert found[61] == pytest.approx(1 - 1 / 39)
    assert (found[79] + found[80]) / 2 == pytest.approx(0.5)
    assert found[99] == 0.0


def test_hold_that_falls_over_the_whole_run_is_linear():
    settings = {"steps": 30, "warmup_steps": 4, "final_fraction": 0.05}
    assert rates(schedule="hold", decay_fraction=1.0, **settings) == rates(schedule="linear", **settings)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "hold"])
@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("warmup", [0, 1, 20, 100])
def test_every_rate_is_above_zero_and_at_most_one(schedule, steps, warmup):
    """Also when the warm-up is longer than the run; then the last step reaches the top."""
    found = rates(steps=steps, warmup_steps=warmup, schedule=schedule, final_fraction=0.1)
    assert all(0 < r <= 1 for r in found) and max(found) == 1
    top = found.index(1.0)
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert found[-1] == (1 if warmup >= steps - 1 else pytest.approx(0.1))


def test_no_step_of_a_run_is_wasted_at_zero():
    """The known mistake: the first step with a rate of 0, or a rate so low that nothing is learned."""
    for schedule in ("cosine", "linear", "hold"):
        assert rates(steps=100, warmup_steps=20, schedule=schedule)[0] == pytest.approx(1 / 21)
