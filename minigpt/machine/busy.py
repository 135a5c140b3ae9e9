"""Whether other programs are busy beside this one, and how much longer its work takes for it.

    began = reading()
    ...                               # something is timed
    other = beside(began, reading())  # None on a quiet machine
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from minigpt.machine import cgroups, readings

NOTICED = 0.15  # cores' worth of other work that is not worth a word: every system has some
FULL = 0.9  # of the cores are busy when work has to wait for each other
NAMED = 0.1  # cores that a program must take to be named
WINDOW = 0.2  # seconds in which the names are looked for
MOST = 10.0  # a longer delay is not told apart from a machine without a free core


@dataclass(frozen=True)
class Reading:
    """CPU seconds so far: of all programs on the machine, of this process, of its container (None: unlimited)."""

    time: float
    machine: float | None
    own: float
    container: float | None = None


@dataclass(frozen=True)
class Other:
    """`taken` of the `cores` that this process may use went to other programs; `slower` is at most the delay."""

    taken: float
    cores: float
    slower: float
    names: tuple[str, ...] = ()

    def said(self) -> str:
        """One sentence for the user."""
        who = f"Other programs ({', '.join(self.names)}) use" if len(self.names) > 1 else "Another program uses"
        who = f"Another program ({self.names[0]}) uses" if len(self.names) == 1 else who
        delay = f"the times are those of a quiet machine; beside it they are up to {self.slower:.1f}× as long"
        return f"{who} {self.taken:.0%} of the processor's {self.cores:.0%}: {delay}.".replace("%", " %")

    def quiet(self, seconds: float) -> float:
        """What work that took `seconds` would at least take on a quiet machine."""
        return seconds / self.slower


def reading(root: Path = cgroups.ROOT) -> Reading:
    """The present counters; `machine` is None where they cannot be read."""
    return Reading(time.monotonic(), readings.processor_seconds(), _own(), cgroups.cpu_seconds(root))


def beside(began: Reading, ended: Reading, usable: float | None = None, cores: float | None = None) -> Other | None:
    """The other programs that were busy between two readings, or None.

    `usable` cores are this process's (a container's quota may be less than the machine's `cores`); both default to
    this machine's.
    """
    usable = usable or cgroups.usable_cores()
    taken, slower = competition(began, ended, usable, cores or float(readings.cores() or os.cpu_count() or usable))
    return Other(taken, usable, slower, _names()) if slower > 1.0 else None


def competition(began: Reading, ended: Reading, usable: float, cores: float) -> tuple[float, float]:
    """(cores' worth that others took of ours, how much longer at most our work took for it: 1 on a quiet machine).

    Others hinder as far as they fill the cores that this process has no claim to, or use up its container's quota.
    The work would have had at most all usable cores, and it got `own`: it took usable / own times as long, unless a
    core was free all the time.
    """
    elapsed = ended.time - began.time
    if elapsed <= 0 or began.machine is None or ended.machine is None:
        return 0.0, 1.0
    own = max(0.0, ended.own - began.own) / elapsed
    everybody = min(cores, (ended.machine - began.machine) / elapsed)
    others = max(0.0, everybody - own)
    taken, full = max(0.0, others - (cores - usable)), everybody >= FULL * cores
    if usable < cores and began.container is not None and ended.container is not None:  # it has a quota of its own
        together = (ended.container - began.container) / elapsed
        neighbours = max(0.0, together - own)
        if neighbours > taken:
            taken, full = neighbours, together >= FULL * usable
    taken = min(taken, usable)
    if taken < NOTICED or not full:
        return taken, 1.0
    return taken, usable / max(usable - taken, usable / MOST)


def most_active(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]], elapsed: float,
                most: int = 3) -> tuple[str, ...]:  # fmt: skip
    """The names of the programs that took the most between two tables of `id -> (name, CPU seconds)`."""
    used: dict[str, float] = {}
    for pid, (name, seconds) in after.items():
        used[name] = used.get(name, 0.0) + seconds - before.get(pid, (name, seconds))[1]
    ranked = sorted(used, key=lambda name: -used[name])
    return tuple(name for name in ranked if name and used[name] >= NAMED * elapsed)[:most]


def _names() -> tuple[str, ...]:
    """The programs that are busy now; empty where they cannot be seen."""
    before, began = readings.busiest(), time.monotonic()
    time.sleep(WINDOW)
    after = readings.busiest()
    return () if before is None or after is None else most_active(before, after, time.monotonic() - began)


def _own() -> float:
    """CPU seconds of this process and of children that have ended."""
    return sum(os.times()[:4])
