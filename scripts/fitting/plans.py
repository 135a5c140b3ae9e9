"""Short runs of whole presets: what each stage was planned to take, and what it took."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.cli import tables
from minigpt.stages.table import USUAL
from minigpt.units import gigabytes

MEMORY, TIME = 0.15, 0.25  # bounds: how far a plan may be off
STEPS = {"tiny": 40, "small": 6, "medium": 3}  # enough to outweigh what happens once
WORLD = {"data.world_texts": 4000, "data.world_lessons": 0, "data.world_instructions": 2000, "data.world_pairs": 400}


@dataclass(frozen=True)
class Planned:
    """One stage: bytes and seconds, planned and actual."""

    preset: str
    backend: str
    stage: str
    planned_memory: int
    memory: int
    planned_seconds: float
    seconds: float

    @property
    def good(self) -> bool:
        return abs(self.memory_error) <= MEMORY and abs(self.time_error) <= TIME

    @property
    def memory_error(self) -> float:
        return self.planned_memory / self.memory - 1

    @property
    def time_error(self) -> float:
        return self.planned_seconds / self.seconds - 1


def planned_and_actual(
    directory: Path, presets: Sequence[str], backends: Sequence[str], steps: int = 0, settings: dict | None = None
) -> list[Planned]:
    """Each preset on each backend: tokenizer, data and the three stages in a process of its own."""
    rows = []
    for backend in backends:
        for preset in presets:
            run = directory / f"{preset}-{backend}"
            _train(run, preset, backend, steps or STEPS[preset], settings or {})
            rows += [_read(run / stage / "plan.json", preset, backend) for stage in USUAL]
    return rows


def _train(run: Path, preset: str, backend: str, steps: int, settings: dict) -> None:
    values = WORLD | {f"{stage}.steps": steps for stage in USUAL} | {f"{stage}.eval_rows": 8 for stage in USUAL}
    values |= {f"data.{stage}": "['world']" for stage in USUAL} | settings
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    flags = ["--run", run, "--preset", preset, "--backend", backend, "--power", "full"]
    # A time that cannot be exceeded: with a limit even the shortest run is measured before it starts.
    command = [sys.executable, "-m", "minigpt", "run", *flags, "--time", "10000h", *sets]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{preset} on {backend}: {done.stderr[-2000:]}")
    print(done.stderr.partition("Plan: ")[2].splitlines()[0], file=sys.stderr)


def _read(path: Path, preset: str, backend: str) -> Planned:
    kept = json.loads(path.read_text("utf-8"))
    planned, actual = kept["planned"], kept["actual"]
    return Planned(preset, backend, kept["stage"], planned["memory"], actual["memory"], planned["seconds"],
                   actual["seconds"])  # fmt: skip


def show(rows: Sequence[Planned]) -> None:
    """The table, and how many stages are within the bounds."""
    shown = [
        [f"{r.preset} {r.stage}", r.backend, gigabytes(r.planned_memory), gigabytes(r.memory), f"{r.memory_error:+.0%}",
         f"{r.planned_seconds:.1f} s", f"{r.seconds:.1f} s", f"{r.time_error:+.0%}"]
        for r in rows
    ]  # fmt: skip
    columns = ["stage", "backend", "planned", "actual", "off", "planned", "actual", "off"]
    tables.kept_table("Planned against actual: peak memory and time", columns, shown)
    memory, time = (sum(abs(getattr(r, name)) <= bound for r in rows)
                    for name, bound in (("memory_error", MEMORY), ("time_error", TIME)))  # fmt: skip
    print(f"Memory within {MEMORY:.0%}: {memory} of {len(rows)} stages. Time within {TIME:.0%}: {time} of {len(rows)}.")
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
