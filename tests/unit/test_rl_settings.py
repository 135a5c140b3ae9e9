"""The tables of RL say what they need, and settings that cannot work get a sentence."""

import numpy as np
import pytest

from minigpt.errors import UsageError
from minigpt.parity.reference import reference
from minigpt.train.advantages import answer_advantages, gae, last_tokens, whitened
from minigpt.train.calibration import calibration_error, reliability
from minigpt.train.kl import KL_ESTIMATORS, check_kl, kl_estimate
from minigpt.train.policy_losses import POLICY_LOSSES, PolicySettings, policy_losses, token_weights
from minigpt.train.preferences import PREFERENCE_LOSSES, Answers, PreferenceSettings, answer_losses
from minigpt.train.reward_losses import pair_reliability

B = reference()


def test_k1_in_the_loss_is_refused_with_its_reason():
    with pytest.raises(UsageError, match="its gradient in a loss is 0 on average"):
        PolicySettings(kl="k1", kl_coefficient=0.1).check()
    PolicySettings(kl="k1").check()  # without a coefficient there is no KL
    for kind in KL_ESTIMATORS:
        places = [place for place in ("reward", "loss") if _allowed(kind, place)]
        assert places == (["reward"] if kind == "k1" else ["loss"])


def _allowed(kind, place):
    try:
        check_kl(kind, place)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize(("settings", "words"), [
    ({"loss": "gpo"}, "no policy loss"), ({"ratio": "word"}, "no level"), ({"delta": 1.1}, "within the clipping"),
    ({"kl": "k4", "kl_coefficient": 1.0}, "no KL estimator"),
])  # fmt: skip
def test_settings_that_cannot_work(settings, words):
    with pytest.raises(UsageError) as error:
        PolicySettings(**settings).check()
    assert words in str(error.value)


@pytest.mark.parametrize("loss", POLICY_LOSSES)
def test_weights_of_a_step_sum_to_one(loss):
    """dr_grpo's only when every answer is as long as the longest may be."""
    mask = np.tri(5, 7, 2) if loss != "dr_grpo" else np.ones((5, 7))
    assert token_weights(mask, loss, 7).sum() == pytest.approx(1)
    assert (token_weights(np.zeros((5, 7)), loss, 7) == 0).all()  # every answer was cut off


@pytest.mark.parametrize("loss", POLICY_LOSSES)
def test_the_first_loss_is_minus_the_mean_advantage_and_nothing_overflows(loss):
    """Ratio 1: -A everywhere; and log-ratios of ±500 stay finite."""
    mask, logprobs = np.ones((3, 4)), np.full((3, 4), -1.0)
    advantages = np.repeat(np.array([[1.0], [2.0], [-3.0]]), 4, axis=1)
    settings = PolicySettings(loss=loss)
    found = policy_losses(B, logprobs, logprobs, advantages, mask, settings)
    assert found == pytest.approx(-advantages * (logprobs if loss == "cispo" else 1))
    far = policy_losses(B, logprobs + np.array([500, -500, 0, 1]), logprobs, advantages, mask, settings)
    assert np.isfinite(far).all()


@pytest.mark.parametrize("kind", PREFERENCE_LOSSES)
def test_losses_start_where_their_table_says(kind):
    row = PREFERENCE_LOSSES[kind]
    policy = np.full((1, 2, 2) if row.paired else (1, 4), -7.0)
    labels = None if row.paired else np.array([[1, 0, 1, 0]])
    answers = Answers(policy, policy, np.full(policy.shape, 3.0), labels)
    if row.start is None:
        assert not row.needs_reference
    else:
        found = answer_losses(B, kind, answers, PreferenceSettings(0.25, 0.1))
        assert found == pytest.approx(np.full(found.shape, row.start(0.25)))


@pytest.mark.parametrize("kind", PREFERENCE_LOSSES)
def test_what_a_loss_needs_is_asked_for(kind):
    row = PREFERENCE_LOSSES[kind]
    wrong = np.zeros((2, 2, 2)) if row.paired else np.zeros((2, 2))
    if row.needs_reference or row.needs_lengths or not row.paired:
        with pytest.raises(UsageError, match="needs"):
            answer_losses(B, kind, Answers(wrong), PreferenceSettings())
    if row.paired:
        with pytest.raises(UsageError, match="compares pairs"):
            answer_losses(B, kind, Answers(np.zeros((2, 2))), PreferenceSettings())


def test_orpo_stays_finite_for_a_certain_answer():
    certain = Answers(np.zeros((1, 1, 2)), lengths=np.ones((1, 1, 2)))
    assert np.isfinite(answer_losses(B, "orpo", certain, PreferenceSettings())).all()


def test_estimates_of_kl():
    d = np.array([-0.5, 0.0, 2.0])
    assert kl_estimate(B, "k1", d, 0 * d) == pytest.approx(d)
    assert kl_estimate(B, "k2", d, 0 * d) == pytest.approx(d**2 / 2)
    assert (kl_estimate(B, "k3", d, 0 * d) >= 0).all()


def test_groups_of_one_and_equal_rewards_have_no_advantage():
    for kind in ("group", "dr_grpo", "rloo"):
        assert (answer_advantages(kind, np.array([[3.0], [1.0]])) == 0).all()
        assert (answer_advantages(kind, np.full((2, 4), 0.3)) == 0).all()


def test_gae_with_lambda_one_is_the_return_minus_the_value():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 3, 5))
    mask = np.ones((3, 5))
    found, targets = gae(rewards, values, mask, 1.0, 1.0)
    returns = rewards[:, ::-1].cumsum(axis=1)[:, ::-1]
    assert found == pytest.approx(returns - values) and targets == pytest.approx(returns)


def test_padding_is_never_read():
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    held = np.where(mask > 0, 1.0, np.nan)
    for array in (*gae(held, held, mask, 1.0, 1.0), whitened(held, mask)):
        assert np.isfinite(array).all() and (array[mask == 0] == 0).all()
    assert last_tokens(mask).tolist() == [1, 0]


def test_calibration_by_hand():
    """Two of four came true at .75 to .8, none of one at .21: errors .27 (mean .77) and .21, weighted 4 : 1."""
    table = reliability(np.array([0.76, 0.77, 0.78, 0.77, 0.21]), np.array([1, 0, 1, 0, 0]), 5)
    assert [(line.low, line.count) for line in table] == [(0.2, 1), (0.6, 4)]
    assert calibration_error(table) == pytest.approx(0.8 * 0.27 + 0.2 * 0.21)
    assert sum(line.count for line in pair_reliability(np.array([-3.0, 0.1, 200.0]))) == 3
