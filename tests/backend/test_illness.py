"""Training with losses that are not finite or jump: steps are skipped, and it goes back once, then explains."""

import json
import math

import pytest
from toy import Points, toy_train

from minigpt.data.batches import Batches
from minigpt.errors import MiniGPTError
from minigpt.events import Note, Saved, Skipped, Step
from minigpt.store.checkpoint import load_checkpoint
from minigpt.train import loop

SETTINGS = {"steps": 24, "save_every": 4, "eval_every": 50, "learning_rate": 0.01, "bad_steps": 3, "keep_last": 2,
            "spike": 5.0}  # fmt: skip


@pytest.fixture
def injured(monkeypatch):
    """injured(wrong): the loss of each call of the gradient is what `wrong(call, loss)` makes of it; calls from 0."""
    right = loop.accumulated

    def injure(wrong):
        calls = iter(range(1000))

        def accumulated(backend, gradient, weights, batch, parts, rest):
            value, metrics, grads = right(backend, gradient, weights, batch, parts)
            return wrong(next(calls), value), metrics, grads

        monkeypatch.setattr(loop, "accumulated", accumulated)

    return injure


def journal(store):
    return [json.loads(line) for line in store.journal.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_steps_that_are_not_finite_leave_everything_as_it_was(backend, tmp_path, injured, bad):
    """Two bad steps after step 5: the weights and moments at the end are those of step 5; the steps are counted."""
    events = []
    injured(lambda call, value: value * bad if call in (5, 6) else value)
    _, store = toy_train(backend, tmp_path, report=events.append, **SETTINGS | {"steps": 7})
    assert [(e.step, e.total) for e in events if isinstance(e, Skipped)] == [(6, 1), (7, 2)]
    assert [line.get("skipped") is not None for line in journal(store) if "loss" in line][-2:] == [True, True]
    assert [line["loss"] for line in journal(store) if "skipped" in line] == [None, None]
    trees, state = load_checkpoint(store.checkpoints()[-1])
    assert (state["step"], state["health"]["skipped"]) == (7, 2)
    injured(lambda call, value: value)
    well = toy_train(backend, tmp_path / "well", **SETTINGS | {"steps": 7, "save_every": 5})[1]
    five, seven = (load_checkpoint(path)[0] for path in well.checkpoints())
    assert trees["weights"]["w"] == five["weights"]["w"] != seven["weights"]["w"]
    assert trees["optim"]["first.w"] == five["optim"]["first.w"]


def test_a_streak_goes_back_to_the_last_good_checkpoint_once(backend, tmp_path, injured):
    """Steps 9 … 11 fail after the checkpoint of step 8: the batches 8 … 10 are omitted and all 24 steps are done."""
    events, seen = [], []
    injured(lambda call, value: value * math.nan if call in (8, 9, 10) else value)
    right = Batches.__call__

    class Watched(Batches):
        def __call__(self, step, weights=None):
            seen.append(step)
            return right(self, step)

    _, store = toy_train(backend, tmp_path, report=events.append, batches=Watched(Points(), 2, seed=1), **SETTINGS)
    assert seen == [*range(11), *range(11, 27)]
    assert [e.step for e in events if isinstance(e, Step)] == [*range(1, 11), *range(9, 25)]
    (note,) = [e.text for e in events if isinstance(e, Note)]
    assert "not finite in 3 steps in a row (step 11). Going back to the checkpoint of step 8" in note
    trees, state = load_checkpoint(store.checkpoints()[-1])
    assert (state["step"], state["health"]["rollbacks"], state["health"]["offset"]) == (24, 1, 3)
    assert math.isfinite(trees["weights"]["w"][0])
    assert [line["went_back_from"] for line in journal(store) if "went_back_from" in line] == [11]


def test_a_jump_goes_back_and_is_never_the_best(backend, tmp_path, injured):
    """A jump that begins in step 12: the checkpoint saved then is neither the best nor the one to go back to."""
    events = []
    injured(lambda call, value: value + 1000 if call in (11, 12, 13) else value)
    _, store = toy_train(backend, tmp_path, report=events.append, **SETTINGS)
    saved = [e.step for e in events if isinstance(e, Saved)]
    assert saved == [4, 8, 12, 12, 16, 20, 24]  # 12 once ill, once well
    notes = [e.text for e in events if isinstance(e, Note)]
    assert len(notes) == 1 and "the loss jumped to" in notes[0] and "checkpoint of step 8;" in notes[0]
    assert load_checkpoint(store.checkpoints()[-1])[1]["health"]["offset"] == 6


def test_going_back_takes_the_averages_back(backend, tmp_path, injured):
    """A jump in steps 12 to 14: the updates of the first two are dropped, also from the average."""
    injured(lambda call, value: value + 1000 if call in (11, 12, 13) else value)
    averaged = {"ema_decay": 0.5, "eval_every": 1, "save_every": 1, "keep_last": 99}
    store = toy_train(backend, tmp_path, **SETTINGS | averaged)[1]
    trees = [load_checkpoint(path)[0] for path in store.checkpoints()]
    assert [line["step"] for line in journal(store) if "went_back_from" in line] == [11] and len(trees) == 24
    means = [tree["optim"]["average.w"] for tree in trees]
    for step in range(9, 24):
        assert means[step] == pytest.approx((means[step - 1] + trees[step]["weights"]["w"]) / 2, abs=1e-6), step


def test_a_second_failure_stops_with_an_explanation(backend, tmp_path, injured):
    injured(lambda call, value: value * math.nan if call in (8, 9, 10) or call > 15 else value)
    with pytest.raises(MiniGPTError, match="went back to a checkpoint before.*Lower toy.learning_rate") as caught:
        toy_train(backend, tmp_path, **SETTINGS)
    assert caught.value.exit_code == 1
    store = toy_train.store(tmp_path)
    assert all(math.isfinite(load_checkpoint(path)[0]["weights"]["w"][0]) for path in store.checkpoints())


def test_without_a_checkpoint_it_stops_at_once(backend, tmp_path, injured):
    injured(lambda call, value: value * math.nan)
    with pytest.raises(MiniGPTError, match="not finite in 3 steps in a row .step 3., before a first checkpoint"):
        toy_train(backend, tmp_path, **SETTINGS)
    assert toy_train.store(tmp_path).checkpoints() == []


def test_a_batch_without_weights_is_said_and_left_out(backend, tmp_path):
    events = []

    class Masked(Batches):
        def __call__(self, step, weights=None):
            batch = super().__call__(step)
            return batch | {"weights": 0 * batch["weights"]} if step == 2 else batch

    toy_train(backend, tmp_path, report=events.append, batches=Masked(Points(), 2, seed=1), **SETTINGS)
    assert [(e.step, e.reason) for e in events if isinstance(e, Skipped)] == [
        (3, "its batch has no token to learn from")
    ]
