"""What moves on a terminal while something takes its time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from minigpt.cli import console

_shown: Live | None = None


def lively() -> bool:
    """Whether something on stderr may move: a terminal that can, and that nothing moves on yet."""
    return console.err.is_terminal and not console.err.is_dumb_terminal and (_shown is None or not _shown.is_started)


def live(content: Any) -> Live:
    """A region that moves. stdout is left alone: by default it would be sent to stderr."""
    global _shown
    _shown = Live(content, console=console.err, transient=True, refresh_per_second=8, redirect_stdout=False)
    return _shown


def idle() -> Spinner:
    """What moves between two things that have a total."""
    return Spinner("dots", Text("Working …"))


@contextmanager
def working(what: str, after: float = 2.0) -> Iterator[None]:
    """Shows that `what` goes on: a spinner on a terminal, elsewhere a line once it has taken `after` seconds."""
    if lively():
        with live(Spinner("dots", Text(f"{what} …"))):
            yield
        return
    timer = threading.Timer(after, console.note, [f"{what} …"])
    timer.daemon = True
    if not console.err.is_terminal or console.err.is_dumb_terminal:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
