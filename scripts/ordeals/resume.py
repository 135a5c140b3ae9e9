"""Every stage stopped behind each of its steps and started again: bitwise the uninterrupted run."""

import itertools
import shutil
from pathlib import Path

from backends import get_backend
from backends.base import Backend
from minigpt.events import silent
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.stages.table import USUAL

from .cuts import copied, stopped, uninterrupted
from .ordeal import Outcome, count, difference, prepared, small_config

CUTS = 20
FEWEST = 6  # steps: one after a measurement and a checkpoint
WAYS = list(itertools.product(("muon", "adamw"), (1, 4), (False, True)))  # optimizer, accumulation, checkpointing


def every_cut(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """Each cut has its way of computing in turn, so that all ways are cut in each stage."""
    outcomes = []
    for name in backends:
        backend = get_backend(name, "cpu")
        outcome = Outcome(f"stopped behind a step and started again, {name}")
        base = prepared(directory / name, small_config(steps=max(FEWEST, count(CUTS, scale) + 1)))
        for stage in USUAL:
            for cut in range(1, count(CUTS, scale) + 1):
                way = WAYS[cut % len(WAYS)]
                lost = _cut(base, stage, backend, cut, way)
                outcome.check(not lost, f"{stage}, cut {cut}, {way}: {lost}")
            shutil.copytree(_whole(base, stage, backend, WAYS[1 % len(WAYS)]).store(stage).directory,
                            base.store(stage).directory)  # fmt: skip
        outcome.note = "weights, optimizer, journal, samples bit for bit"
        outcomes.append(outcome)
    return outcomes


def _cut(base: Run, stage: str, backend: Backend, cut: int, way: tuple) -> str:
    whole = _whole(base, stage, backend, way)
    parts = copied(base, f"{stage}-cut", stage, **_settings(way))
    if wrong := stopped(parts, stage, backend, cut):
        return wrong
    train_stage(parts, stage, backend, silent)
    different = difference(parts.directory, whole.directory, (stage,))
    return different or ("" if _samples(parts, stage, backend) == _samples(whole, stage, backend) else "other samples")


def _samples(run: Run, stage: str, backend: Backend) -> list[str]:
    engine = load_engine(run, stage, backend)
    prompt = engine.tokenizer.encode("The")
    return [engine.answer([prompt], sampling, 12)[0].text for sampling in (GREEDY, Sampling(seed=7))]


def _whole(base: Run, stage: str, backend: Backend, way: tuple) -> Run:
    return uninterrupted(base, f"{stage}-whole-{WAYS.index(way)}", stage, backend, **_settings(way))


def _settings(way: tuple) -> dict:
    return dict(zip(("optimizer", "grad_accumulation", "activation_checkpointing"), way, strict=True))
