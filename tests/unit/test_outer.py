"""Outer steps: what a round of several processes makes of the weights, against the formulas in NumPy."""

import numpy as np
import pytest

from backends.group import Several
from backends.numpy.backend import NumPyBackend
from minigpt.config import load_config
from minigpt.errors import MiniGPTError, UsageError
from minigpt.events import silent
from minigpt.sections import StageConfig
from minigpt.stages.table import STAGES
from minigpt.train.health import Health
from minigpt.train.loop import State
from minigpt.train.outer import OuterSteps

SETTINGS = {"steps": 9, "outer_every": 2, "eval_every": 2, "save_every": 2}
START = {"a": np.array([1.0, -2.0], np.float32), "b": np.array([[0.5]], np.float32)}


class Two(Several):
    """The first of two processes. What the other one has stands in `partner`: weights by name, and what it tells."""

    def __init__(self, backend, partner, told=None):
        super().__init__(backend, 0, 2)
        self.partner, self.told, self.common = partner, told or {}, None

    def _sum(self, flat):
        ways = [self.common[name] - self.partner[name] for name in self.partner]
        return flat + np.concatenate([x.reshape(-1) for x in ways])

    def gather(self, value):
        return [value, value | self.told]

    def share(self, tree, rank=0):
        return tree


def meeting(partner, told=None, **settings):
    """(outer steps that begin a round, its state, the group)."""
    backend = NumPyBackend()
    backend.group = group = Two(backend, partner, told)
    outer = OuterSteps(backend, "pretrain", StageConfig(**SETTINGS | settings), silent)
    moments = {"first": {name: np.ones_like(x) for name, x in START.items()}, "second": {}}
    start = {name: x.copy() for name, x in START.items()}
    weights, moments, _ = outer.loaded(lambda wanted: (start, wanted, {"step": 0}), start, moments)
    group.common = dict(START)
    return outer, State(weights, moments), group


def test_with_rate_1_and_without_momentum_a_round_ends_with_the_mean_of_the_weights():
    own, other = ({name: x + shift for name, x in START.items()} for shift in (0.3, -0.7))
    outer, state, _ = meeting(other, outer_every=1, outer_learning_rate=1.0, outer_momentum=0.0)
    state.weights, state.step = own, 1
    outer(state, None)
    for name, x in state.weights.items():
        assert np.allclose(x, (own[name] + other[name]) / 2, atol=1e-7)


def test_two_rounds_of_nesterov_by_hand():
    """As torch.optim.SGD(nesterov=True) has it: m = 0.6 m + g, w = w - 0.7 (g + 0.6 m)."""
    outer, state, group = meeting({})
    expected, momentum = dict(START), {name: 0 * x for name, x in START.items()}
    for step, (mine, theirs) in enumerate([(0.4, 0.0), (-0.2, 1.0)], start=1):
        own, group.partner = ({name: x + shift for name, x in expected.items()} for shift in (mine, theirs))
        state.weights, state.step, group.common = own, 2 * step - 1, expected
        outer(state, None)
        assert state.weights is own, "within a round nothing is exchanged"
        state.step += 1
        outer(state, None)
        for name, x in expected.items():
            g = x - (own[name] + group.partner[name]) / 2
            momentum[name] = 0.6 * momentum[name] + g
            expected = expected | {name: x - 0.7 * (g + 0.6 * momentum[name])}
        assert all(np.allclose(state.weights[name], x, atol=1e-6) for name, x in expected.items())
    assert group.exchanges == 2 and outer.traffic == 2 * 3 * 8, "three float64 in each of two rounds"
    kept = outer.kept(state.moments)
    assert set(kept["ranks"]) == {"0", "1"} and np.allclose(kept["outer"]["b"], momentum["b"], atol=1e-6)


def test_an_update_in_place_leaves_the_common_weights_as_they_are():
    outer, state, _ = meeting(dict(START), outer_every=1)
    state.weights["a"] += 5.0
    state.step = 1
    outer(state, None)
    assert np.allclose(state.weights["a"], START["a"] + 0.7 * 1.6 * 2.5), "its own way is half of the mean"


def test_a_round_in_which_one_fails_is_dropped_once():
    outer, state, _ = meeting({}, told={"failing": True})
    assert outer.judged("good") == "good"
    state.weights, state.step = {name: x + 9 for name, x in START.items()}, 2
    outer(state, None)
    assert all((state.weights[name] == x).all() for name, x in START.items()) and state.health.rollbacks == 1
    assert not state.moments["first"]["a"].any()
    state.step = 4
    with pytest.raises(MiniGPTError, match=r"steps 3 to 4\), although"):
        outer(state, None)
    assert [outer.judged("failing"), outer.judged("good")] == ["skip", "skip"], "until the round ends"


def test_what_all_decide_is_decided_at_the_end_of_a_round():
    outer, state, _ = meeting(dict(START), told={"answers": [True, "pause"], "health": {"recent": [1.0]}})
    stop, pause = outer.agreed(lambda: False, (True,)), outer.agreed(lambda: "go on", ("stop", "pause"))
    state.step, state.health = 1, Health(recent=[3.0])
    outer(state, None)
    assert (stop(), pause()) == (None, None)
    state.step = 2
    outer(state, None)
    assert (stop(), pause()) == (True, "pause") and state.health.recent == [3.0], "the first process's"


def test_each_process_learns_from_the_mean_over_its_own_rows():
    outer, _, _ = meeting({})
    batch = {"ids": np.zeros((3, 2)), "weights": np.array([[1, 1], [1, 0], [1, 1]], np.float32) / 5}
    rows = outer.rows(batch)
    assert rows["weights"].tolist() == pytest.approx(np.array([[1, 1], [1, 0]]) / 3)


def test_what_does_not_fit_is_refused_by_name():
    for stage, row in STAGES.items():
        if row.config().needs_weights:
            with pytest.raises(UsageError, match=rf"{stage}.*outer_every must be 0"):
                load_config("tiny", None, [f"{stage}.outer_every=50"])
    needing = [stage for stage, row in STAGES.items() if row.config().needs_weights]
    assert needing == ["kto", "online_dpo", "grpo", "ppo"]
    own = ["distill.teacher=runs/big", "distill.outer_every=50"]
    load_config("tiny", None, own)
    with pytest.raises(UsageError, match=r"distill.*outer_every must be 0"):
        load_config("tiny", None, [*own, "distill.own_answers=0.5"])
    with pytest.raises(UsageError, match=r"pretrain.*eval_every = 100 must be a multiple of outer_every = 30"):
        load_config("tiny", None, ["pretrain.outer_every=30", "pretrain.eval_every=100"])
