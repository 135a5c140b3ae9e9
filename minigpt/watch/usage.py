"""What a training takes of the machine, kept in the run's usage.jsonl so that a page can show it."""

import json
import time
from pathlib import Path

from minigpt.events import Continued, Event, Paused, StageStarted, Step, Usage

NAME = "usage.jsonl"
APART = 2.0  # seconds between two lines


class UsageJournal:
    """A report that keeps memory, CPU share and ceilings, and pauses, in a run's directory: a line per two seconds."""

    def __init__(self, directory: Path):
        self.path = directory / NAME
        self._last, self._stage, self._step = 0.0, "", 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._stage = event.stage
        elif isinstance(event, Step):
            self._step = event.step
        elif isinstance(event, Usage) and time.monotonic() - self._last >= APART:
            self._last = time.monotonic()
            self._write(cpu=event.cpu, max_cpu=event.max_cpu, memory=event.memory, max_memory=event.max_memory,
                        power=event.power)  # fmt: skip
        elif isinstance(event, Paused):
            self._write(paused=event.reason)
        elif isinstance(event, Continued):
            self._write(continued=round(event.seconds, 1))

    def _write(self, **values: object) -> None:
        record = {"time": round(time.time(), 1), "stage": self._stage, "step": self._step} | values
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
