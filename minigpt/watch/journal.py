"""metrics.jsonl as columns of numbers: read on from where the last look ended, and drawn with few points."""

import json
import math
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PLACES, BLOCK = 250, 1024  # a sketch reads so many blocks of so many bytes
LAST = 32_768  # bytes at the end of a file that a sketch reads whole
LONGEST = 1 << 20  # characters; a longer line is damage


class Journal:
    """The lines of one metrics.jsonl (or any file of JSON objects with a `step`), by metric.

    Lines that are cut off, damaged or without a step are counted in `damaged` and change nothing else. Numbers that
    are not finite are kept as NaN. What is not a number (a reason, a name) is kept in `marks`, whole lines.
    """

    def __init__(self, path: Path):
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.columns: dict[str, tuple[array, array]] = {}  # metric -> (steps, values), float64
        self.marks: list[dict[str, Any]] = []
        self.damaged = 0
        self.sketched = False
        self.step = 0.0  # the highest one
        self._offset, self._file = 0, None

    def update(self) -> bool:
        """Read the lines that were added, or all of them when the file is another one; returns whether any were."""
        try:
            with self.path.open("rb") as file:
                status = _status(file.fileno())
                if self.sketched or status[0] != self._file or status[1] < self._offset:
                    self._forget()
                    self._file = status[0]
                if status[1] == self._offset:
                    return False
                file.seek(self._offset)
                data = file.read()
        except OSError:  # not there yet, or being replaced
            return False
        whole = data.rfind(b"\n") + 1
        if _parsed(data[whole:]) is not None:  # a last line that only lacks its end
            whole = len(data)
        self._offset += whole
        self._add(data[:whole].split(b"\n"))
        return whole > 0

    def sketch(self, places: int = PLACES) -> "Journal":
        """Read a file of any length in a short time: some lines at evenly spaced places, and its last lines.

        A short file is read whole. `sketched` says which it was.
        """
        try:
            size = self.path.stat().st_size
            if size <= PLACES * BLOCK + LAST:
                self.update()
                return self
            self._forget()
            self.sketched = True
            with self.path.open("rb") as file:
                for place in np.linspace(0, size - LAST - BLOCK, places).astype(int).tolist():
                    file.seek(place)
                    lines = file.read(BLOCK).split(b"\n")
                    self._add(lines[1 if place else 0 : -1])  # the first and the last one are cut
                file.seek(size - LAST)
                self._add(file.read().split(b"\n")[1:])
        except OSError:
            pass
        return self

    def _add(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            if not line.strip():
                continue
            record = _parsed(line)
            step = record.get("step") if record else None
            if not _is_number(step) or not math.isfinite(step) or step < 0:
                self.damaged += 1
                continue
            self.step = max(self.step, step)
            if any(isinstance(value, str) for value in record.values()):
                self.marks.append(record)
            for name, value in record.items():
                if name != "step" and (value is None or _is_number(value)):
                    steps, values = self.columns.setdefault(name, (array("d"), array("d")))
                    steps.append(step)
                    values.append(value if value is not None and math.isfinite(value) else math.nan)

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps (N,), values (N,)) of a metric, in the order of the steps; empty when it has none."""
        steps, values = (np.array(column) for column in self.columns.get(name, (array("d"), array("d"))))
        if len(steps) > 1 and (np.diff(steps) < 0).any():
            order = np.argsort(steps, kind="stable")
            steps, values = steps[order], values[order]
        return steps, values

    def last(self, name: str) -> float | None:
        """The last finite value of a metric."""
        values = self.columns.get(name, ((), ()))[1]
        return next((value for value in reversed(values) if not math.isnan(value)), None)


def _parsed(line: bytes) -> dict[str, Any] | None:
    if len(line) > LONGEST:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can hold; JSON's NaN and Infinity, which Python reads, are numbers, too."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300)


def _status(descriptor: int) -> tuple[tuple[int, int], int]:
    """((device, inode), size) of an open file."""
    found = os.fstat(descriptor)
    return (found.st_dev, found.st_ino), found.st_size
