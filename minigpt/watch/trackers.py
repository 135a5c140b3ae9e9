"""Reports for other people's dashboards: any module with wandb's `init` and `log`, as wandb and trackio have them."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt.errors import UsageError, check_name
from minigpt.events import Eval, Event, Report, Step, Usage

TRACKERS = ("wandb", "trackio")


class Tracker:
    """A report that logs each step and measurement with `module`, a run there for the run here.

    wandb sends what it gets to its servers unless it is told not to (WANDB_MODE=offline).
    """

    def __init__(self, module: Any, directory: Path, config: dict[str, Any], **options: Any):
        self._run = module.init(project="minigpt", name=directory.resolve().name, config=config, **options)
        self._stage, self._before, self._steps = "", 0, 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            values = {"loss": event.loss, "learning_rate": event.learning_rate, "norm": event.norm, **event.metrics}
            self._log(event.stage, event.step, values)
        elif isinstance(event, Eval):
            self._log(event.stage, event.step, {f"validation_{name}": x for name, x in event.metrics.items()})
        elif isinstance(event, Usage) and self._stage:
            self._log(self._stage, self._steps, {"memory": event.memory, "cpu": event.cpu})

    def _log(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Steps go on from stage to stage: these dashboards take none that is lower than one before."""
        if stage != self._stage:
            self._stage, self._before, self._steps = stage, self._before + self._steps, 0
        self._steps = max(self._steps, step)
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self._run.log(named | {f"{stage}/step": step}, step=self._before + self._steps)

    def finish(self) -> None:
        """The end: what was logged is written."""
        self._run.finish()


def tracker(name: str, directory: Path, config: dict[str, Any], **options: Any) -> Tracker:
    """The tracker of that name. Raises UsageError when it is not installed."""
    check_name("tracker", name, TRACKERS)
    try:
        return Tracker(importlib.import_module(name), directory, config, **options)
    except ImportError:
        raise UsageError(f"{name} is not installed.", f"pip install {name}, or use --tensorboard.") from None


def all_of(reports: Sequence[Report]) -> Report:
    """One report that hands each event to several."""

    def report(event: Event) -> None:
        for one in reports:
            one(event)

    return report
