"""A run that is interrupted and resumed gives, bit for bit, what the uninterrupted run gives."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from once import by_turns, once

from backends.tree import items, map_leaves
from minigpt.events import Eval, Step
from minigpt.parity.trajectories import losses_of
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.store.checkpoint import load_checkpoint
from minigpt.store.stage import StageStore

SETTINGS = {"steps": 4, "save_every": 2, "eval_every": 3, "log_every": 1, "warmup_steps": 1}
EMA, SWA = {"ema_decay": 0.9}, {"swa_fraction": 0.75}  # the mean of steps 2 to 4
CASES = [  # by turns for both backends: with each of them every stage and every value of each setting
    ("pretrain", "adamw", 1, False, {}), ("pretrain", "adamw", 2, True, {}), ("pretrain", "muon", 1, True, EMA),
    ("pretrain", "muon", 2, False, EMA), ("sft", "adamw", 2, True, SWA), ("sft", "muon", 1, False, SWA),
    ("dpo", "muon", 2, True, {}), ("dpo", "adamw", 1, False, {}),
]  # fmt: skip


def results(run, stage):
    """The last checkpoint's arrays as bytes, its state, and the journal without the clock."""
    store = run.store(stage)
    trees, state = load_checkpoint(store.checkpoints()[-1])
    arrays = {(name, key): x.tobytes() for name, flat in trees.items() for key, x in flat.items()}
    journal = [json.loads(line) for line in store.journal.read_text("utf-8").splitlines()]
    return arrays, state, [{k: v for k, v in line.items() if k not in ("seconds", "waited")} for line in journal]


class Stopped(Exception):
    pass


def interrupted(run, stage, backend):
    """The losses of a run that is stopped in step 3, behind the checkpoint of step 2, and started again."""
    losses = []

    def report(event):
        if isinstance(event, Step):
            losses.append(event.loss)
        if isinstance(event, Eval) and event.step == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train_stage(run, stage, backend, report)
    assert [path.name for path in run.store(stage).checkpoints()] == ["step-000002"]
    again = losses_of(run, stage, backend)
    assert again[0] == losses[2]  # the step that was lost is done once more
    return losses[:2] + again


@by_turns("stage,optimizer,accumulation,checkpointing,average", CASES)
def test_resumed_equals_uninterrupted(backend, copied, stage, optimizer, accumulation, checkpointing, average):
    """Checkpoints have the weights and, where these are averaged, the averages; the final weights are one of the two.
    """
    way = {"optimizer": optimizer, "grad_accumulation": accumulation} | SETTINGS | average
    way |= {"activation_checkpointing": checkpointing}
    whole, parts = copied(stage, "whole", **way), copied(stage, "parts", **way)
    losses = losses_of(whole, stage, backend)
    assert len(losses) == 4 and len(set(losses)) == 4
    assert interrupted(parts, stage, backend) == losses
    assert results(parts, stage) == results(whole, stage)
    for a, b in zip(*(run.store(stage).final.glob("*") for run in (whole, parts)), strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


@pytest.fixture(scope="module")
def halfway(backend, world_run, tmp_path_factory):
    """(a run that was stopped after step 2, the arrays of the uninterrupted one)"""
    whole, parts = (
        Run(tmp_path_factory.mktemp(name) / "run", world_run.config.with_section("sft", **SETTINGS | EMA))
        for name in ("whole", "parts")
    )
    for run in (whole, parts):
        shutil.copytree(world_run.directory, run.directory)
        shutil.rmtree(run.store("sft").directory)
    losses_of(whole, "sft", backend)
    losses_of(parts, "sft", backend, stop_after=2)
    return parts, results(whole, "sft")[0]


@once
@pytest.mark.parametrize("lost", ["nothing", "moments", "one moment", "average", "position", "precision"])
def test_whatever_is_lost_would_be_seen(backend, halfway, tmp_path, monkeypatch, lost):
    """Each of the known mistakes breaks the equality: zero moments, data from the start, weights from float16."""
    right = StageStore.resume

    def resume(store, backend, weights, optim, report):
        weights, optim, state = right(store, backend, weights, optim, report)
        if lost == "moments":
            optim = map_leaves(lambda x: 0 * x, optim)
        if lost == "one moment":
            optim["second"]["model.norm.weight"] = 0 * optim["second"]["model.norm.weight"]
        if lost == "average":
            optim["average"] = dict(items(weights))
        if lost == "precision":
            weights = map_leaves(lambda w: w.astype(np.float16).astype(np.float32), weights)  # still NumPy's
        if lost == "position":
            state["step"] -= 1
        return weights, optim, state

    parts, whole = halfway
    run = Run(Path(shutil.copytree(parts.directory, tmp_path / "run")), parts.config)
    monkeypatch.setattr(StageStore, "resume", resume)
    losses_of(run, "sft", backend)
    assert (results(run, "sft")[0] == whole) == (lost == "nothing")


@once
def test_a_finished_stage_is_left_as_it_is(backend, copied):
    run = copied("sft", **SETTINGS)
    assert len(losses_of(run, "sft", backend)) == 4
    before = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*") if path.is_file()}
    assert losses_of(run, "sft", backend) == []
    assert {path: path.stat().st_mtime_ns for path in run.directory.rglob("*") if path.is_file()} == before


@once
def test_a_stage_that_ended_before_its_final_weights_were_written_needs_no_step(backend, copied):
    run = copied("sft", **SETTINGS)
    losses_of(run, "sft", backend, stop_after=4)
    assert not run.store("sft").finished()
    assert losses_of(run, "sft", backend) == []
    assert run.store("sft").finished()


def test_whatever_computes_the_stored_numbers_are_float32(backend, copied):
    """Weights, moments and averages of a bfloat16 run lose nothing on disk."""
    run = copied("sft", **SETTINGS | EMA | {"dtype": "bfloat16", "steps": 2})
    losses_of(run, "sft", backend)
    trees, _ = load_checkpoint(run.store("sft").checkpoints()[-1])
    assert trees.keys() == {"weights", "optim"}
    assert {x.dtype.name for flat in trees.values() for x in flat.values()} == {"float32"}
    values = trees["weights"]["model.embed_tokens.weight"]
    assert np.abs(values - (values.view(np.uint32) & 0xFFFF0000).view(np.float32)).max() > 0  # not rounded to bfloat16
