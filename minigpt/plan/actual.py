"""What a stage really took, beside what was planned: kept in its plan.json."""

import contextlib
import json
import os
import resource
import sys
from pathlib import Path

from backends.base import Backend
from minigpt.events import Compared
from minigpt.machine.ceiling import give_back
from minigpt.plan.plan import StagePlan
from minigpt.store.durable import write_whole

PEAK_AGAIN = Path("/proc/self/clear_refs")  # Linux: writing 5 lets the high-water mark begin again


class Peak:
    """The most memory of this process from now on: on a GPU with memory of its own the framework's own count."""

    def __init__(self, backend: Backend):
        self.backend = backend
        self.own = backend.device == "gpu" and not backend.shares_memory()
        give_back(backend)  # what an earlier stage has left
        with contextlib.suppress(OSError):  # without it the peak counts what the process did before, too
            PEAK_AGAIN.write_text("5")

    def bytes(self) -> int:
        return self.backend.memory()["peak"] if self.own else max_resident()


def max_resident() -> int:
    """The high-water mark of this process's resident memory, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024  # bytes on macOS, kilobytes elsewhere


def resident() -> int:
    """The resident memory of this process just now, in bytes; where the system does not tell, the high-water mark."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return max_resident()


def compare(directory: Path, planned: StagePlan, memory: int, seconds: float, steps: int) -> Compared:
    """Write what was planned and what happened into `directory`/plan.json; returns it as an event.

    A time that was planned for other steps (training was interrupted in between) is left out.
    """
    expected = planned.seconds if steps == planned.steps else None
    kept = {
        "stage": planned.stage, "steps": steps,
        "planned": {"memory": planned.memory.total, "seconds": expected},
        "actual": {"memory": memory, "seconds": round(seconds, 3)},
    }  # fmt: skip
    write_whole(directory / "plan.json", json.dumps(kept, indent=1))
    return Compared(planned.stage, memory, planned.memory.total, seconds, expected)
