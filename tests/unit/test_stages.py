"""What a stage says about itself."""

import math

import pytest

from minigpt.config import load_config
from minigpt.errors import UsageError
from minigpt.stages.dpo import DPO, DPOConfig, is_stuck
from minigpt.train.preferences import PREFERENCE_LOSSES


@pytest.mark.parametrize(
    ("kind", "loss", "stuck"),
    [
        ("sigmoid", math.log(2), True),
        ("sigmoid", 0.69, True),
        ("sigmoid", 0.6, False),
        ("ipo", 25.0, True),
        ("ipo", 20.0, False),
        ("hinge", 1.0, True),
        ("apo_zero", 0.9, False),
        ("apo_down", 1.0, True),
        ("simpo", math.log(2), False),  # without a reference there is no start to stay at
        ("orpo", 1.0, False),
    ],
)
def test_a_preference_loss_that_stays_at_its_start_is_stuck(kind, loss, stuck):
    assert is_stuck(DPOConfig(loss=kind, beta=0.1), loss) is stuck


def test_dpo_takes_every_loss_of_pairs():
    paired = {name for name, row in PREFERENCE_LOSSES.items() if row.paired}
    assert set(DPOConfig.model_fields["loss"].annotation.__args__) == paired


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["dpo.loss=cdpo"], "is sigmoid"),
        (["dpo.loss=robust"], "is sigmoid"),
        (["dpo.label_smoothing=0.1"], "take the loss cdpo or robust"),
        (["dpo.loss=simpo", "dpo.label_smoothing=0.1"], "does not read label_smoothing"),
        (["dpo.target_margin=1"], "take the loss simpo"),
        (["dpo.loss=robust", "dpo.label_smoothing=0.5"], "less than 0.5"),
        (["dpo.loss=kto"], "must be 'sigmoid'"),
    ],
)
def test_settings_that_a_preference_loss_does_not_read_are_refused(settings, reason):
    with pytest.raises(UsageError, match=reason):
        load_config(sets=settings)


def test_only_losses_with_a_reference_read_the_pairs_first():
    assert DPO.reads_first(DPOConfig()) and not DPO.reads_first(DPOConfig(loss="simpo"))
