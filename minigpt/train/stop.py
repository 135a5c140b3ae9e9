"""Ctrl-C, SIGTERM, SIGHUP and Ctrl-Break as a wish that training answers between two steps, with a checkpoint."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from minigpt.machine import readings

KNOWN = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # no system has them all
SIGNALS = tuple(getattr(signal, name) for name in KNOWN if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP where nothing needs to be saved first."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stop:
    """Whether the process was asked to stop. As a context it receives the signals; else nobody ever asks.

    While training listens, the first signal is only noted, and a second Ctrl-C ends the process at once. At other
    times a signal raises KeyboardInterrupt. With `parent`, that process's death counts as a signal: nobody would
    watch this one any more.
    """

    def __init__(self, parent: int | None = None, tell: Callable[[str], None] = lambda text: None):
        self.signal: int | None = None
        self._parent, self._tell = parent, tell
        self._listening = False

    def __enter__(self) -> "Stop":
        # Signals that whoever started this process ignores (nohup, the supervisor) stay ignored.
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._arrived)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        if self.signal is None and self._parent is not None and not self._has_parent():
            self.signal = signal.SIGTERM
        return self.signal is not None

    def _has_parent(self) -> bool:
        """Whether the parent lives; Windows never gives an orphan another one."""
        return os.getppid() == self._parent and (hasattr(os, "fork") or readings.is_there(self._parent))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """The block asks `requested` again and again and saves its work before it ends."""
        self._listening = True
        try:
            yield
        finally:
            self._listening = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)  # the next one ends the process, whatever it is doing
        if not self._listening:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        if self.signal is None:
            again = "; Ctrl-C again leaves at once" if number == signal.SIGINT else ""
            self._tell(f"Stopping: this step is finished and saved{again}.")
        self.signal = number
