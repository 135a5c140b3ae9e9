"""A text that is small against its training: the best weights are kept, it is said aloud, and patience ends it."""

import json
import random
import re
import signal

import pytest
from command import call, journal, tiny, weights

from minigpt import library
from minigpt.runs.control import Control
from minigpt.store.checkpoint import read_state
from minigpt.train.stop import Stop

STEPS, EVERY = 100, 5
OVERFIT = {"learning_rate": 0.02, "steps": STEPS, "eval_every": EVERY, "save_every": 1000, "batch_size": 8}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """5 KB of random words: what can be learned is which words there are, and after that only all by heart."""
    drawn = random.Random(1)
    words = ["".join(drawn.choices("abcdefghij", k=4)) for _ in range(200)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("".join(" ".join(drawn.choices(words, k=12)) + ".\n" for _ in range(80)), "utf-8")
    return path


def flags(text, run, **settings):
    changes = {f"pretrain__{key}": value for key, value in (OVERFIT | settings).items()}
    return ("train", "pretrain", *tiny(**changes), "--data", text, "--run", run, "--backend", "torch")


@pytest.fixture(scope="module")
def learned(text, tmp_path_factory):
    """(run, what was said, validation loss by step) of a training without patience."""
    return trained_on(text, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def early(text, tmp_path_factory):
    """The same of one that ends after two measurements without a new best."""
    return trained_on(text, tmp_path_factory.mktemp("runs") / "early", patience=2)


def trained_on(text, run, **settings):
    result = call(*flags(text, run, **settings))
    assert result.code == 0, result.err
    return run, " ".join(result.err.split()), losses(run)


def losses(run):
    return {line["step"]: line["validation_loss"] for line in journal(run, "pretrain") if "validation_loss" in line}


def test_the_best_is_kept_although_no_checkpoint_was_due(learned):
    run, said, found = learned
    best = min((step for step in found if step), key=found.get)
    assert best < STEPS and found[STEPS] > found[best]  # it does over-fit
    state = read_state(run / "pretrain" / "final")
    assert state["step"] == best and state["metrics"]["loss"] == found[best] and state["trained"] == STEPS


def test_it_is_said_when_it_begins_and_in_the_last_line(learned):
    _, said, found = learned
    expected = first_after(found, 3)  # the third measurement in a row that is not better
    best = min((step for step in found if 0 < step <= expected), key=found.get)
    words = f"best at step {best:,} (validation loss {found[best]:.4f}); not better since: from here the model learns"
    assert words in said
    last = min((step for step in found if step), key=found.get)
    assert f"best weights (step {last} of {STEPS}) in" in said
    assert "times: the model will learn them by heart. What helps: more data, fewer steps" in said


def first_after(found, count):
    """The step at which the lowest loss so far is `count` measurements old."""
    lowest, since = float("inf"), 0
    for step in sorted(found)[1:]:
        lowest, since = (found[step], 0) if found[step] < lowest else (lowest, since + 1)
        if since == count:
            return step
    raise AssertionError(found)


def test_patience_ends_it_with_the_best_weights(minigpt, learned, early):
    _, _, found = learned
    run, said, shorter = early
    end = first_after(found, 2)
    assert shorter == {step: loss for step, loss in found.items() if step <= end}  # the same training, only shorter
    best = min((step for step in shorter if step), key=shorter.get)
    assert f"ended after step {end} of {STEPS}: no measurement since step {best} was better (patience 2)." in said
    assert read_state(run / "pretrain" / "final")["step"] == best
    assert f"steps {end}, " in card(minigpt, run)  # not those that were planned


def card(minigpt, run):
    assert minigpt("export", run, "--no-verify", "--out", "card").code == 0
    with open("card/README.md", encoding="utf-8") as file:
        return next(line for line in file if re.match(r"\| pretrain \|", line))


def test_patience_survives_a_stop(minigpt, text, tmp_path, learned, early):
    """Stopped between two measurements, twice: the same weights, and the end where it would have been."""
    _, _, found = learned
    end = first_after(found, 2)
    for number in (end - 7, end - 2):
        heard = Stop()

        def stop(state, done, number=number, heard=heard):
            heard.signal = signal.SIGTERM if state.step == number else heard.signal

        with pytest.raises(library.Interrupted):
            library.train_stage("pretrain", "stopped", data=[str(text)], backend="torch", hooks=[stop], preset="tiny",
                                settings=sections(), control=Control(heard), patience=2, **OVERFIT)  # fmt: skip
    run = library.train_stage("pretrain", "stopped", backend="torch")
    assert weights(run.directory, "pretrain") == weights(early[0], "pretrain")
    assert max(losses(tmp_path / "stopped")) == end


def sections():
    """The settings of `tiny` beside the stage's own, as a nested dict."""
    made: dict = {}
    for part in tiny()[3::2]:
        key, value = part.split("=")
        section, name = key.split(".")
        if section not in ("pretrain", "sft", "dpo"):
            made.setdefault(section, {})[name] = json.loads(value)
    return made | {"pretrain": {"eval_rows": 4, "log_every": 1}}
