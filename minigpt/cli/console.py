"""What the user sees and says: progress and messages on stderr, data on stdout. Computes nothing."""

import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.spinner import Spinner
from rich.text import Text

from minigpt import events
from minigpt.cli.progress import Curve, Pace, lines_due, sparkline, training_line
from minigpt.units import duration, gigabytes


class _Out(Console):
    def on_broken_pipe(self) -> None:
        raise  # the reader has gone (`| head`): cli.main ends quietly, rich would exit with 1


out = _Out(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


class Reporter:
    """Shows events as they come: one live region on a terminal, plain lines elsewhere.

    Use as `with Reporter() as report`.
    """

    def __init__(self) -> None:
        self._region: Live | None = None
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=max(5, min(28, err.width - 52))),
            MofNCompleteColumn(), TextColumn("{task.fields[status]}"), console=err,
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}
        self._printed = time.monotonic()
        self._pace, self._curve, self._taken = Pace(), Curve(), None

    def __enter__(self) -> "Reporter":
        if _lively():
            self._region = _live(_idle())
            self._region.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._region is not None:
            self._region.stop()

    def __call__(self, event: events.Event) -> None:
        getattr(self, f"_{type(event).__name__.lower()}")(event)

    def _note(self, event: events.Note) -> None:
        note(event.text)

    def _bar(self, name: str, done: int, total: int | None, status: str, finished: bool = False) -> None:
        if self._region is None:
            return
        if finished:
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            self._region.update(self._bars if self._tasks else _idle())
            return
        if name not in self._tasks:
            self._region.update(self._bars)
            self._tasks[name] = self._bars.add_task(name, total=total, completed=done, status=status)
        self._bars.update(self._tasks[name], completed=done, total=total, status=status)

    def _plain(self, line: str, now: bool = False, after: float = 10.0) -> None:
        """A line where there is no region (and in the log): `now`, or `after` so many seconds without one."""
        if now or time.monotonic() - self._printed > after:
            self._printed = time.monotonic()
            (note if self._region is None else log)(line)

    def _stagestarted(self, event: events.StageStarted) -> None:
        note(
            f"{event.stage}: {event.parameters:,} parameters, {event.steps:,} steps, "
            f"{event.backend} on {event.device}, {event.dtype}."
        )
        self._pace, self._curve = Pace(), Curve()
        self._bar(event.stage, 0, event.steps, "the first step takes longest")

    def _resumed(self, event: events.Resumed) -> None:
        note(f"{event.stage}: going on from step {event.step:,}.")

    def _skipped(self, event: events.Skipped) -> None:
        if event.total <= 3 or event.total % 10 == 0:
            so_far = f" ({event.total:,} so far)" if event.total > 1 else ""
            note(f"{event.stage} step {event.step:,} is skipped: {event.reason}{so_far}.")

    def _step(self, event: events.Step) -> None:
        self._pace.add(event)
        self._curve.add(event.loss)
        eta = f"ETA {duration((event.steps - event.step) * self._pace.seconds)}"
        line = training_line(event, self._pace, "", self._taken, 200)
        due = event.step % lines_due(event.steps) == 0 or event.step == event.steps
        self._plain(f"{event.stage} step {event.step:,}/{event.steps:,}  {line}  {eta}", now=due, after=60.0)
        if self._region is None:
            return
        curve = sparkline(self._curve.points, max(5, min(24, err.width - 64))) if err.encoding.startswith("utf") else ""
        line = training_line(event, self._pace, curve, self._taken, err.width)
        self._bar(event.stage, event.step, event.steps, eta)
        self._region.update(Group(self._bars, Text(line, no_wrap=True)))

    def _usage(self, event: events.Usage) -> None:
        self._taken = event

    def _paused(self, event: events.Paused) -> None:
        saved = ", which is saved" if event.saved else ""
        note(f"{event.stage}: paused after step {event.step:,}{saved}: {event.reason}.")

    def _continued(self, event: events.Continued) -> None:
        note(f"{event.stage}: going on after a pause of {duration(event.seconds)}.")

    def _sampled(self, event: events.Sampled) -> None:
        shown = " ".join(f"{event.prompt}⟶{event.text}".split())
        note(f"{event.stage} step {event.step:,}  sample: {shown if len(shown) <= 100 else shown[:99] + '…'}")

    def _eval(self, event: events.Eval) -> None:
        shown = {k: v for k, v in event.metrics.items() if k in ("loss", "bits_per_byte", "accuracy", "margin")}
        note(f"{event.stage} step {event.step:,}  validation " + "  ".join(named(k, v) for k, v in shown.items()))

    def _saved(self, event: events.Saved) -> None:
        pass

    def _stagefinished(self, event: events.StageFinished) -> None:
        self._bar(event.stage, 0, None, "", finished=True)
        if event.skipped:
            note(f"{event.stage}: finished before, kept ({event.path}).")
        else:
            note(f"{event.stage}: finished in {duration(event.seconds)}, best weights in {event.path}")

    def _compared(self, event: events.Compared) -> None:
        line = f"{event.stage}: memory {gigabytes(event.memory)} (planned {gigabytes(event.planned_memory)})"
        if event.planned_seconds is not None:
            line += f", time {duration(event.seconds)} (planned {duration(event.planned_seconds)})"
        note(f"{line}.")

    def _progress(self, event: events.Progress) -> None:
        self._bar(event.task, event.done, event.total, "", event.finished)
        self._plain(f"{event.task}: {event.done:,}" + (f" of {event.total:,}" if event.total else ""))


def named(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:.4f}"


# ---- one thing at a time ---------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    """JSON on stdout for scripts; a number that is not finite becomes null, which JSON has."""
    write(json.dumps(_finite(value), ensure_ascii=False, indent=1) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def json_list() -> Iterator[Callable[[Any], None]]:
    """A function that writes one value of a JSON list at a time, so that none has to wait for the last."""
    count = 0

    def add(value: Any) -> None:
        nonlocal count
        text = json.dumps(_finite(value), ensure_ascii=False, indent=1).replace("\n", "\n ")
        write(("[\n " if count == 0 else ",\n ") + text)
        count += 1

    yield add
    write("\n]\n" if count else "[]\n")


@contextmanager
def page() -> Iterator[Callable[[str], None]]:
    """A function that writes pieces of one text to stdout, on a terminal in lines that break at words."""
    if not sys.stdout.isatty():
        yield write
        write("\n")
        return
    from minigpt.cli.wrapping import Wrapped

    wrapped = Wrapped(write, out.width)
    try:
        yield wrapped
    finally:  # also for what Ctrl-C has cut off
        wrapped.end()
        write("\n")


def write(text: str) -> None:
    """Text on stdout at once; on a terminal without the control characters that a model may make up."""
    if sys.stdout.isatty():
        text = printable(text)
    sys.stdout.write(text)
    sys.stdout.flush()


def printable(text: str) -> str:
    """The text with U+FFFD for each control character but line ends and tabs, which could steer the terminal.

    Spaces of any width, joiners and marks of direction are text; lone surrogates cannot be written.
    """
    return _CONTROL.sub("\ufffd", text)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def note_of(event: events.Event) -> None:
    """A report that shows notes only."""
    if isinstance(event, events.Note):
        note(event.text)


def note(text: str) -> None:
    """A sentence on stderr, and in the log of the run that trains."""
    err.print(Text(text))
    log(text)


# ---- the log of a run ------------------------------------------------------------------------------------


_story: TextIO | None = None


@contextmanager
def logged(file: TextIO) -> Iterator[None]:
    """What is said in the block is also written to `file`."""
    global _story
    before, _story = _story, file
    try:
        yield
    finally:
        _story = before


def log(text: str) -> None:
    """A line in the log alone. The dashes tell it from what frameworks write there."""
    if _story is not None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        _story.write("".join(f"--- {now} {line}\n" for line in text.splitlines() or [""]))
        _story.flush()


# ---- signs of life ---------------------------------------------------------------------------------------

_shown: Live | None = None


def _lively() -> bool:
    """Whether something on stderr may move: a terminal that can, and that nothing moves on yet."""
    return err.is_terminal and not err.is_dumb_terminal and (_shown is None or not _shown.is_started)


def _live(content: Any) -> Live:
    """A region that moves. stdout is left alone: by default it would be sent to stderr."""
    global _shown
    _shown = Live(content, console=err, transient=True, refresh_per_second=8, redirect_stdout=False)
    return _shown


def _idle() -> Spinner:
    """What moves between two things that have a total."""
    return Spinner("dots", Text("Working …"))


@contextmanager
def working(what: str, after: float = 2.0) -> Iterator[None]:
    """Shows that `what` goes on: a spinner on a terminal, elsewhere a line once it has taken `after` seconds."""
    if _lively():
        with _live(Spinner("dots", Text(f"{what} …"))):
            yield
        return
    timer = threading.Timer(after, note, [f"{what} …"])
    timer.daemon = True
    if not err.is_terminal or err.is_dumb_terminal:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], AbstractContextManager]]:
    """A function for blocks that each do some of a total: it takes how many are done.

    Where stdout is a terminal what the blocks print shows how far it is: then only something moves while they work.
    """
    if sys.stdout.isatty():
        yield lambda done: working(f"{what}: {done:,} of {total:,}")
        return
    with Reporter() as report:

        def reported(done: int) -> AbstractContextManager:
            report(events.Progress(what, done, total))
            return nullcontext()

        yield reported
        report(events.Progress(what, total, total, finished=True))
