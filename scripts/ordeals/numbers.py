"""Losses and gradients that are not finite, and losses that jump, in every stage."""

import math
import shutil
from pathlib import Path

from backends import get_backend
from backends.tree import leaves, map_leaves
from minigpt.errors import MiniGPTError
from minigpt.events import Note, Skipped, silent
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.stages.table import USUAL
from minigpt.store.checkpoint import load_checkpoint
from minigpt.train import loop

from .ordeal import Outcome, count, prepared, small_config

# What is wrong -> (in which gradients, counted from 0, what becomes of the value and the gradients, what must follow)
FAULTS = {
    "NaN in one loss": ({13}, "value", math.nan, "skip"),
    "infinity in one loss": ({13}, "value", math.inf, "skip"),
    "NaN in one gradient": ({13}, "gradient", math.nan, "skip"),
    "infinity in one gradient": ({13}, "gradient", math.inf, "skip"),
    "NaN in five losses": (set(range(13, 18)), "value", math.nan, "back"),
    "a jump of the loss": ({13, 14, 15}, "jump", 50.0, "back"),
    "NaN for ever": (set(range(13, 1000)), "value", math.nan, "stop"),
}


def bad_numbers(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """One step: left out and counted. A streak or a jump: back to a checkpoint, once. For ever: an explanation."""
    outcomes = {name: Outcome(f"{name}, injected") for name in FAULTS}
    for name in backends:
        backend = get_backend(name, "cpu")
        base = prepared(directory / name, small_config(steps=24))
        for stage in USUAL[: count(len(USUAL), scale)]:
            for fault, outcome in outcomes.items():
                run = Run(Path(shutil.copytree(base.directory, directory / "run")), base.config)
                lost = _with(fault, run, stage, backend)
                outcome.check(not lost, f"{stage} on {name}: {lost}")
                shutil.rmtree(run.directory)
            train_stage(base, stage, backend, silent)
    for name, outcome in outcomes.items():
        outcome.note = {"skip": "the step is left out", "back": "back to a checkpoint", "stop": "stops, and says why"}[
            FAULTS[name][3]
        ]
    return list(outcomes.values())


def _with(fault: str, run: Run, stage: str, backend) -> str:
    """Train with a fault; what is wrong with how it ended."""
    where, what, number, expected = FAULTS[fault]
    right, calls, events = loop.accumulated, iter(range(10_000)), []

    def accumulated(backend, gradient, weights, batch, parts, rest):
        value, metrics, grads = right(backend, gradient, weights, batch, parts)
        if next(calls) in where:
            if what == "gradient":
                grads = map_leaves(lambda g: g * number, grads)
            else:
                value = value + number if what == "jump" else value * number
        return value, metrics, grads

    loop.accumulated = accumulated
    try:
        train_stage(run, stage, backend, events.append)
        ended = "finished"
    except MiniGPTError as error:
        ended = str(error)
    finally:
        loop.accumulated = right
    skipped = sum(isinstance(event, Skipped) for event in events)
    back = sum(isinstance(event, Note) and "Going back to the checkpoint" in event.text for event in events)
    saved = [load_checkpoint(path)[0]["weights"] for path in run.store(stage).checkpoints()]
    if not all(math.isfinite(float(leaf.sum())) for weights in saved for leaf in leaves(weights)):
        return "a checkpoint holds numbers that are not finite"
    good = {
        "skip": ended == "finished" and (skipped, back) == (1, 0),
        "back": ended == "finished" and back == 1,
        "stop": "although training went back" in ended and back == 1 and not run.store(stage).finished(),
    }[expected]
    return "" if good else f"{ended}; {skipped} steps left out, {back} times back"
