"""The preset that --preset auto means, reported."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minigpt.cli.flags import Settings, Where
from minigpt.machine.limits import Limits


def with_preset(
    given: Settings, run: Path, stages: Sequence[str], where: Where, limits: Limits, time: str | None
) -> Settings:
    """The settings with the preset that "auto" means: the largest that fits, or none for a run that is there already.

    Those with another preset are returned as they are.
    """
    if given.preset != "auto":
        return given
    if (run / "config.toml").exists():
        return replace(given, preset=None)
    from minigpt.cli import console
    from minigpt.cli.opening import backend_of
    from minigpt.plan.choose import largest_preset

    framework = backend_of(where.backend, where.device, quiet=True)
    with console.working("Measuring the presets, the largest first"):
        name, reason, _ = largest_preset(given.config, given.sets, stages, framework, limits, time)
    console.note(f"Preset {name}: {reason}.")
    return replace(given, preset=name)
