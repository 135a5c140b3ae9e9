"""The brake of a run: measures what its processes take of the machine and keeps them within the limits.

The number of threads is left alone on purpose: with another one the frameworks add in another order, and a throttled
run would not give the same weights bit for bit.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from backends.base import Backend
from minigpt.events import Usage
from minigpt.machine import ceiling
from minigpt.machine.cgroups import usable_cores
from minigpt.machine.limits import Limits
from minigpt.machine.now import Conditions, conditions
from minigpt.machine.processes import family, set_niceness, total
from minigpt.machine.throttle import Action, Since, decide, owed_rest, pause_ends, with_power_source

LOOK_EVERY = 2.0  # seconds between two looks at the other processes of the tree and at memory
FEEL_EVERY = 5.0  # seconds between two looks at the machine
SHORTEST, SLICE = 0.005, 0.1  # seconds: of a rest that is worth it, and until a stop is noticed
WINDOW = 30.0  # seconds over which the shown share is averaged


class Stoppable(Protocol):
    """Something that says whether the work was asked to stop."""

    @property
    def requested(self) -> bool: ...


@dataclass
class Surroundings:
    """What the brake reads and moves; tests simulate it."""

    root: int = field(default_factory=os.getpid)  # the process whose tree is counted: the supervisor or this one
    cores: float = field(default_factory=usable_cores)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    own_cpu: Callable[[], float] = time.process_time
    conditions: Callable[[], Conditions] = conditions
    bound: Callable[[int], int | None] = ceiling.bound

    def tree(self) -> tuple[float, int, int]:
        """(CPU seconds of the other processes, resident bytes of those, resident bytes of this one)."""
        table = family(self.root)
        others = total(table, [pid for pid in table if pid != os.getpid()])
        return *others, total(table, [os.getpid()])[1]


class Brake:
    """Holds a run to its limits. `rest` is called between the micro-batches of a step, `decide` between steps."""

    def __init__(self, limits: Limits, backend: Backend, stop: Stoppable, machine: Surroundings | None = None):
        self.limits, self.backend, self.stop = limits, backend, stop
        self.machine = machine or Surroundings()
        self.rested = 0.0  # seconds, in all
        self._owed, self._since, self._felt = 0.0, Since(), -FEEL_EVERY
        self._others = self._elsewhere = self.resident = 0
        self._looked = -LOOK_EVERY
        self._look()
        self._time, self._cpu = self.machine.clock(), self._used()
        self._points = [(self._time, self._cpu)]

    def apply(self) -> int | None:
        """Tell the system and the framework of the limits; returns the bytes that training may still take."""
        if self.limits.nice:
            set_niceness(self.limits.nice)
        if self.limits.memory is None:
            self.backend.runtime.set_limits()
            return None
        if self.backend.runtime.shares_memory():
            self.backend.runtime.set_limits(memory=self.limits.memory, cache=self.limits.memory // 8)
        self.clear()  # what an earlier training of this process has left
        room = self.machine.bound(self.limits.memory - self._elsewhere)
        return self.limits.memory - self.resident if room is None else room

    def rest(self, most: float = float("inf")) -> None:
        """Sleep for as long as is owed, `most` seconds at most (the rest of it is forgiven). A stop ends it."""
        share = self.limits.cpu
        if share is None:
            return
        self._account(share)
        self._owed = min(self._owed, most)
        if self._owed >= SHORTEST:
            before = self.machine.clock()
            self._sleep(self._owed)
            self.rested += self.machine.clock() - before
            self._account(share, resting=True)

    def decide(self) -> Action:
        """What should happen before the next step; caches are cleared here already."""
        self._look()
        now = self._feel()
        self.limits = with_power_source(self.limits, now.battery)
        action, self._since = decide(self.limits, self.resident, now, self.machine.clock(), self._since)
        if action == "clear caches":
            self.clear()
        return action

    def clear(self) -> None:
        """Give back the memory that nothing uses any more."""
        ceiling.give_back(self.backend)

    def pause(self, action: Action) -> float:
        """Wait until the reason is gone, at most for the longest pause or until a stop; returns the seconds."""
        began = self.machine.clock()
        self.clear()
        while not self.stop.requested:
            self._sleep(FEEL_EVERY)
            if pause_ends(self.limits, action, self._feel(), self.machine.clock() - began):
                break
        self._owed, self._time, self._cpu = 0.0, self.machine.clock(), self._used()
        self._points = [(self._time, self._cpu)]
        self._since = Since(resumed=self._time)
        return self._time - began

    def usage(self) -> Usage:
        """What the processes take now, the CPU as an average over the last half minute."""
        now, cpu = self.machine.clock(), self._used()
        if now - self._points[-1][0] >= 1.0:
            old = [point for point in self._points if now - point[0] > WINDOW]
            self._points = [*old[-1:], *self._points[len(old) :], (now, cpu)]
        elapsed = now - self._points[0][0]
        share = (cpu - self._points[0][1]) / elapsed / self.machine.cores if elapsed > 0 else 0.0
        return Usage(share, self.limits.cpu, self.resident, self.limits.memory, self.limits.power)

    def _account(self, share: float, resting: bool = False) -> None:
        """Add what was used since the last reading to what is owed.

        A GPU has no share of its own that could be read: there the time between two rests counts as used.
        """
        now, cpu = self.machine.clock(), self._used()
        elapsed, used = now - self._time, max(0.0, cpu - self._cpu) / self.machine.cores
        if self.backend.device == "gpu" and not resting:
            used = max(used, elapsed)
        self._owed = owed_rest(self._owed, elapsed, used, share)
        self._time, self._cpu = now, cpu

    def _used(self) -> float:
        self._look()
        return self.machine.own_cpu() + self._others

    def _look(self) -> None:
        if self.machine.clock() - self._looked >= LOOK_EVERY:
            self._looked = self.machine.clock()
            self._others, self._elsewhere, own = self.machine.tree()
            runtime = self.backend.runtime
            shared = self.backend.device == "gpu" and runtime.shares_memory()  # not counted as resident by macOS
            self.resident = self._elsewhere + own + (runtime.memory()["active"] if shared else 0)
            if self.limits.memory is not None:
                self.machine.bound(self.limits.memory - self._elsewhere)

    def _feel(self) -> Conditions:
        if self.machine.clock() - self._felt >= FEEL_EVERY:
            self._felt, self._conditions = self.machine.clock(), self.machine.conditions()
        return self._conditions

    def _sleep(self, seconds: float) -> None:
        until = self.machine.clock() + seconds
        while (left := until - self.machine.clock()) > 0 and not self.stop.requested:
            self.machine.sleep(min(left, SLICE))
