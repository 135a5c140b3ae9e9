"""What a stage really took, beside what was planned: kept in its plan.json."""

import json
from pathlib import Path

from backends.base import Backend
from minigpt.events import Compared
from minigpt.machine.ceiling import give_back
from minigpt.machine.processes import max_resident, restart_peak
from minigpt.plan.plan import StagePlan
from minigpt.store.durable import write_whole


class Peak:
    """The most memory of this process from now on: on a GPU with memory of its own the framework's own count."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.own = backend.device == "gpu" and not backend.runtime.shares_memory()
        give_back(backend)  # what an earlier stage has left
        restart_peak()

    def bytes(self) -> int:
        return self.backend.runtime.memory()["peak"] if self.own else max_resident()


def compare(directory: Path, planned: StagePlan, memory: int, seconds: float, steps: int) -> Compared:
    """Write what was planned and what happened into `directory`/plan.json; returns it as an event.

    A time that was planned for other steps (training was interrupted in between) is omitted.
    """
    expected = planned.seconds if steps == planned.steps else None
    kept = {
        "stage": planned.stage, "steps": steps,
        "planned": {"memory": planned.memory.total, "seconds": expected},
        "actual": {"memory": memory, "seconds": round(seconds, 3)},
    }  # fmt: skip
    write_whole(directory / "plan.json", json.dumps(kept, indent=1))
    return Compared(planned.stage, memory, planned.memory.total, seconds, expected)
