"""Where the seconds of a training step go."""

import time
from collections.abc import Callable
from typing import Any


def never() -> float:
    """The rest of a training that nothing slows down."""
    return 0.0


class Clock:
    """Measures steps: how long each took, what it waited for its batch, and what it rested to keep a CPU limit.

    `rest` sleeps for as long as is owed and returns the seconds that were rested in all so far.
    """

    def __init__(self, rest: Callable[[], float] = never):
        self.rest = rest
        self.waited = self._rested = 0.0
        self._last = time.perf_counter()  # when the last step ended, or the work after it

    def begin_step(self) -> None:
        """Rest for what was done since the last step, which does not count as this step's."""
        came = time.perf_counter()
        self._rested = self.rest()
        self._last += time.perf_counter() - came

    def waiting(self, make: Callable, *arguments: Any) -> Any:
        """What `make` returns; its time counts as waiting."""
        asked = time.perf_counter()
        made = make(*arguments)
        self.waited = time.perf_counter() - asked
        return made

    def end_step(self) -> tuple[float, float]:
        """(seconds of the step, seconds of it that were rested)."""
        rested, began = self.rest() - self._rested, self._last
        self._last = time.perf_counter()
        return self._last - began, rested

    def restart(self) -> None:
        """Count from now on: what happened since the last step was no training."""
        self._last = time.perf_counter()
