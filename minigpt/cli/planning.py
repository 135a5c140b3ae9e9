"""What --preset auto means on this machine, reported."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minigpt.cli.flags import Settings, Taking, Where
from minigpt.machine.limits import Limits
from minigpt.runs.finding import is_run


@dataclass(frozen=True)
class Fitted:
    """The flags with a preset's name in place of "auto", the steps that fit the time, and the time to be kept still."""

    given: Settings
    steps: dict[str, dict[str, int]]
    time: str | None


def fitted(
    given: Settings, run: Path, stages: Sequence[str], where: Where, limits: Limits, taking: Taking
) -> Fitted:
    """What "auto" means for a new run; a run which is there already keeps its preset. Other presets are returned."""
    if given.preset != "auto":
        return Fitted(given, {}, taking.time)
    if is_run(run):
        return Fitted(replace(given, preset=None), {}, taking.time)
    from minigpt.cli import console, waiting
    from minigpt.cli.opening import backend_of
    from minigpt.plan.choose import largest_preset

    framework = backend_of(where.backend, where.device, quiet=True)
    with waiting.working("Measuring the presets, the largest first"):
        choice = largest_preset(given.config, given.sets, stages, framework, limits, taking.time)
    console.note(f"Preset {choice.preset}: {choice.reason}.")
    steps = {stage: {"steps": count} for stage, count in choice.steps.items()}
    return Fitted(replace(given, preset=choice.preset), steps, None if steps else taking.time)
