"""What a stage says about itself."""

import math

import pytest

from minigpt.stages.dpo import DPOConfig, is_stuck


@pytest.mark.parametrize(
    ("kind", "loss", "stuck"),
    [
        ("sigmoid", math.log(2), True),
        ("sigmoid", 0.69, True),
        ("sigmoid", 0.6, False),
        ("ipo", 25.0, True),
        ("ipo", 20.0, False),
    ],
)
def test_a_preference_loss_that_stays_at_its_start_is_stuck(kind, loss, stuck):
    assert is_stuck(DPOConfig(loss=kind, beta=0.1), loss) is stuck
