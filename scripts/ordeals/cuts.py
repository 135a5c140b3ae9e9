"""A training that is stopped after a step, beside the uninterrupted one."""

import shutil
import signal
from typing import Any

from backends.base import Backend
from minigpt.errors import Interrupted
from minigpt.events import Step, silent
from minigpt.runs.control import Control
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.train.stop import Stop


def copied(base: Run, name: str, stage: str = "", **settings: Any) -> Run:
    """A fresh copy of `base` beside it, with other settings of a stage."""
    run = _beside(base, name, stage, settings)
    shutil.rmtree(run.directory, ignore_errors=True)
    shutil.copytree(base.directory, run.directory)
    return run


def uninterrupted(base: Run, name: str, stage: str, backend: Backend, **settings: Any) -> Run:
    """The same with the stage trained; it is made once."""
    run = _beside(base, name, stage, settings)
    if not run.store(stage).finished():
        run = copied(base, name, stage, **settings)
        train_stage(run, stage, backend, silent)
    return run


def stopped(run: Run, stage: str, backend: Backend, cut: int) -> str:
    """Train until a SIGTERM arrives in step `cut`; what is wrong with how that ended, "" for nothing."""
    stop = Stop()

    def report(event) -> None:
        if isinstance(event, Step) and event.step == cut:
            stop.signal = signal.SIGTERM

    try:
        train_stage(run, stage, backend, report, Control(stop))
        return "it did not stop"
    except Interrupted:
        kept = run.store(stage).steps_kept()
        return "" if kept == cut else f"it stopped with a checkpoint of step {kept}"


def _beside(base: Run, name: str, stage: str, settings: dict[str, Any]) -> Run:
    config = base.config.with_section(stage, **settings) if settings else base.config
    return Run(base.directory.parent / f"{base.directory.name}-{name}", config)
