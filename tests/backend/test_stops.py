"""Training that is asked to stop ends behind the step, saved, and goes on as if nothing had happened."""

import json
import signal

import pytest
from once import once
from test_resume import results

from backends import BACKENDS
from minigpt.errors import Interrupted
from minigpt.events import Note, Saved, Step, silent
from minigpt.runs.control import Control
from minigpt.runs.training import train_stage
from minigpt.stages.table import FIRST, STAGES
from minigpt.train.stop import Stop

STEPS = 4  # of the first stage; the others are stopped twice
WAYS = [
    {"optimizer": "muon", "grad_accumulation": 2, "activation_checkpointing": False},
    {"optimizer": "adamw", "grad_accumulation": 1, "activation_checkpointing": True},
]


def stopped(run, stage, backend, step):
    """Train until a SIGTERM arrives in `step`; returns the error."""
    stop, saved = Stop(), []

    def report(event):
        if isinstance(event, Step) and event.step == step:
            stop.signal = signal.SIGTERM
        if isinstance(event, Saved):
            saved.append(event.step)

    with pytest.raises(Interrupted) as caught:
        train_stage(run, stage, backend, report, Control(stop))
    assert saved[-1] == step
    return caught.value


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_stopped_in_every_step_is_the_uninterrupted_one(backend, copied, stage):
    """One run, stopped and started again behind each of its steps: weights, moments and journal bit for bit. Each stage
    is trained in one way on one backend and in the other way on the other.
    """
    way = WAYS[(list(STAGES).index(stage) + BACKENDS.index(backend.name)) % len(WAYS)]
    steps = STEPS if stage == FIRST else STEPS - 1
    settings = way | {"steps": steps, "save_every": 3, "eval_every": 2, "log_every": 1, "warmup_steps": 1}
    whole, parts = (copied(stage, name, **settings) for name in ("whole", "parts"))
    train_stage(whole, stage, backend, silent)
    for step in range(1, steps):
        error = stopped(parts, stage, backend, step)
        assert error.exit_code == 143 and f"{stage} after step {step} of {steps}" in error.message
    train_stage(parts, stage, backend, silent)
    assert results(parts, stage) == results(whole, stage)
    for a, b in zip(*(sorted(run.store(stage).final.glob("*")) for run in (whole, parts)), strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


@once
def test_a_stop_in_the_last_step_finishes_the_stage(backend, copied):
    run, stop = copied("sft", steps=2), Stop()

    def report(event):
        if isinstance(event, Step) and event.step == 2:
            stop.signal = signal.SIGINT

    train_stage(run, "sft", backend, report, Control(stop))
    assert run.store("sft").finished()


@once
@pytest.mark.parametrize(("rate", "worse"), [(3.0, True), (1e-4, False)])
def test_a_training_that_only_did_harm_says_so_also_after_a_stop(backend, copied, rate, worse):
    """The loss before the first step is in each checkpoint: what goes on from one knows it."""
    changes = {"steps": 4, "learning_rate": rate, "eval_every": 1, "save_every": 2, "warmup_steps": 0, "spike": 0.0}
    run = copied("sft", f"harm-{worse}", **changes)
    stopped(run, "sft", backend, 2)
    heard = []
    train_stage(run, "sft", backend, heard.append)
    lines = [json.loads(line) for line in run.store("sft").journal.read_text("utf-8").splitlines()]
    found = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    best = min((step for step in found if step), key=found.get)
    assert (found[best] > found[0]) == worse
    words = f"before the first step: a validation loss of {found[0]:.4f}, at best {found[best]:.4f} (step {best})"
    assert any(words in event.text for event in heard if isinstance(event, Note)) == worse
