"""The preset that --preset auto means, reported."""

from collections.abc import Sequence
from pathlib import Path

from minigpt.machine.limits import Limits


def preset_for(
    preset: str | None, run: Path, file: Path | None, sets: Sequence[str] | None, stages: Sequence[str], backend: str,
    device: str, limits: Limits, time: str | None,
) -> str | None:  # fmt: skip
    """The preset that "auto" means for a new run; that of a run which is there already stays. Others are returned."""
    if preset != "auto":
        return preset
    if (run / "config.toml").exists():
        return None
    from minigpt.cli import console
    from minigpt.cli.opening import backend_of
    from minigpt.plan.choose import largest_preset

    framework = backend_of(backend, device, quiet=True)
    with console.working("Measuring the presets, the largest first"):
        name, reason, _ = largest_preset(file, sets, stages, framework, limits, time)
    console.note(f"Preset {name}: {reason}.")
    return name
