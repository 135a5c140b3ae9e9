"""What a stage was planned to take, and beside it what it really took: kept in its plan.json."""

import json
from pathlib import Path
from typing import Any

from backends.base import Backend
from minigpt.events import Compared
from minigpt.machine.ceiling import give_back
from minigpt.machine.processes import max_resident, restart_peak
from minigpt.plan.plan import StagePlan
from minigpt.store.durable import write_whole

NAME = "plan.json"


class Peak:
    """The most memory of this process from now on: on a GPU with memory of its own the framework's own count."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.own = backend.device == "gpu" and not backend.runtime.shares_memory()
        give_back(backend)  # what an earlier stage has left
        restart_peak()

    def bytes(self) -> int:
        return self.backend.runtime.memory()["peak"] if self.own else max_resident()


def keep_plan(directory: Path, planned: StagePlan) -> None:
    """Write what is planned into `directory`/plan.json, where pages find it during training. A resumed stage has it."""
    path = directory / NAME
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(_kept(planned, planned.steps, planned.seconds), indent=1))


def _kept(planned: StagePlan, steps: int, seconds: float | None) -> dict[str, Any]:
    return {"stage": planned.stage, "steps": steps, "planned": {"memory": planned.memory.total, "seconds": seconds}}


def compare(directory: Path, planned: StagePlan, memory: int, seconds: float, steps: int) -> Compared:
    """Write what was planned and what happened into `directory`/plan.json; returns it as an event.

    A time that was planned for other steps (training was interrupted in between) is omitted.
    """
    expected = planned.seconds if steps == planned.steps else None
    kept = _kept(planned, steps, expected) | {"actual": {"memory": memory, "seconds": round(seconds, 3)}}
    write_whole(directory / NAME, json.dumps(kept, indent=1))
    return Compared(planned.stage, memory, planned.memory.total, seconds, expected)
