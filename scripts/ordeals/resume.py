"""Every stage stopped behind each of its steps and started again: bitwise the uninterrupted run."""

import itertools
import shutil
import signal
from pathlib import Path

from backends import get_backend
from backends.base import Backend
from minigpt.errors import Interrupted
from minigpt.events import Step, silent
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.runs.control import Control
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.stages.table import USUAL
from minigpt.train.stop import Stop

from .ordeal import Outcome, count, difference, prepared, small_config

CUTS = 20
WAYS = list(itertools.product(("muon", "adamw"), (1, 4), (False, True)))  # optimizer, accumulation, checkpointing


def every_cut(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """Each cut has its way of computing in turn, so that all ways are cut in each stage."""
    outcomes = []
    for name in backends:
        backend = get_backend(name, "cpu")
        outcome = Outcome(f"stopped behind a step and started again, {name}")
        base = prepared(directory / name, small_config(steps=CUTS + 1))
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
    parts = _copy(base, f"{stage}-cut", stage, way)
    stop = Stop()

    def report(event) -> None:
        if isinstance(event, Step) and event.step == cut:
            stop.signal = signal.SIGTERM

    try:
        train_stage(parts, stage, backend, report, Control(stop))
        return "it did not stop"
    except Interrupted:
        pass
    if parts.store(stage).steps_kept() != cut:
        return f"it stopped with a checkpoint of step {parts.store(stage).steps_kept()}"
    train_stage(parts, stage, backend, silent)
    different = difference(parts.directory, whole.directory, (stage,))
    return different or ("" if _samples(parts, stage, backend) == _samples(whole, stage, backend) else "other samples")


def _samples(run: Run, stage: str, backend: Backend) -> list[str]:
    engine = load_engine(run, stage, backend)
    prompt = engine.tokenizer.encode("The")
    return [engine.answer([prompt], sampling, 12)[0].text for sampling in (GREEDY, Sampling(seed=7))]


def _whole(base: Run, stage: str, backend: Backend, way: tuple) -> Run:
    """The uninterrupted run, made once per way."""
    name = f"{stage}-whole-{WAYS.index(way)}"
    if (base.directory.parent / name / stage / "final").exists():
        return _run(base, name, stage, way)
    run = _copy(base, name, stage, way)
    train_stage(run, stage, backend, silent)
    return run


def _copy(base: Run, name: str, stage: str, way: tuple) -> Run:
    run = _run(base, name, stage, way)
    shutil.rmtree(run.directory, ignore_errors=True)
    shutil.copytree(base.directory, run.directory)
    return run


def _run(base: Run, name: str, stage: str, way: tuple) -> Run:
    changes = dict(zip(("optimizer", "grad_accumulation", "activation_checkpointing"), way, strict=True))
    directory = base.directory.parent / f"{base.directory.name}-{name}"
    return Run(directory, base.config.with_section(stage, **changes))
