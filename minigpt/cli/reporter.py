"""Events as they come: one live region on a terminal, plain lines elsewhere."""

import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from minigpt import events
from minigpt.cli import console, waiting
from minigpt.cli.progress import Curve, Pace, lines_due, sparkline, tied, training_line
from minigpt.pages.texts import words
from minigpt.units import duration, gigabytes, shortened

FIRST_SIGN, SILENCE = 2.0, 10.0  # seconds of a task without a line, in a pipe: before the first one, between others
MEASURED = ("loss", "bits_per_byte", "accuracy", "margin", "reward", "length")  # what is shown of a measurement
CHATML = re.compile(r"<\|im_start\|>(system|user|assistant)\n?|<\|im_end\|>")


class Reporter:
    """Shows events as they come: one live region on a terminal, plain lines elsewhere.

    Use as `with Reporter() as report`. `language` is that of the sentences; figures are named in English.
    """

    def __init__(self, language: str = "en") -> None:
        self._say, self._stages = words(language, "training"), words(language, "stages")
        self._region: Live | None = None
        bar = BarColumn(bar_width=max(5, min(28, console.err.width - 52)))
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), bar,
            MofNCompleteColumn(), TextColumn("{task.fields[status]}"), console=console.err,
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}
        self._printed = time.monotonic()
        self._pace, self._curve, self._taken = Pace(), Curve(), None
        self._task, self._ended = ("", "", 0.0), threading.Event()  # (name, line, began) of what has a Progress

    def __enter__(self) -> "Reporter":
        if waiting.lively():
            self._region = waiting.live(waiting.idle())
            self._region.start()
        else:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        if self._region is not None:
            self._region.stop()

    def __call__(self, event: events.Event) -> None:
        getattr(self, f"_{type(event).__name__.lower()}")(event)

    def _tell(self, word: str, event: events.Event, **more: Any) -> None:
        """The sentence of the table of texts with what the event holds."""
        console.note(self._say[word].format(**vars(event) | more))

    def _note(self, event: events.Note) -> None:
        console.note(event.text)

    def _bar(self, name: str, done: int, total: int | None, status: str, finished: bool = False) -> None:
        if self._region is None:
            return
        if finished:
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            self._region.update(self._bars if self._tasks else waiting.idle())
            return
        if name not in self._tasks:
            self._region.update(self._bars)
            self._tasks[name] = self._bars.add_task(name, total=total, completed=done, status=status)
        self._bars.update(self._tasks[name], completed=done, total=total, status=status)

    def _plain(self, line: str, now: bool = False, after: float = 10.0) -> None:
        """A line where there is no region (and in the log): `now`, or `after` so many seconds without one."""
        if now or time.monotonic() - self._printed > after:
            self._printed = time.monotonic()
            (console.note if self._region is None else console.log)(line)

    def _stagestarted(self, event: events.StageStarted) -> None:
        from minigpt.stages.table import STAGES  # here: it takes a moment, and many commands import this file

        if event.stage in STAGES:
            self._tell("summary", event, summary=self._stages.get(event.stage, STAGES[event.stage].summary))
        self._tell("begun", event)
        self._pace, self._curve = Pace(), Curve()
        self._bar(event.stage, 0, event.steps, self._say["first"])

    def _resumed(self, event: events.Resumed) -> None:
        self._tell("resumed", event)

    def _skipped(self, event: events.Skipped) -> None:
        if event.total <= 3 or event.total % 10 == 0:
            so_far = self._say["so_far"].format(total=event.total) if event.total > 1 else ""
            self._tell("skipped", event, so_far=so_far)

    def _step(self, event: events.Step) -> None:
        self._pace.add(event)
        self._curve.add(event.loss)
        eta = f"ETA {duration((event.steps - event.step) * self._pace.seconds)}"
        line = training_line(event, self._pace, "", self._taken, 200)
        due = event.step % lines_due(event.steps) == 0 or event.step == event.steps
        self._plain(f"{event.stage} step {event.step:,}/{event.steps:,}  {line}  {eta}", now=due, after=60.0)
        if self._region is None:
            return
        err = console.err
        curve = sparkline(self._curve.points, max(5, min(24, err.width - 64))) if err.encoding.startswith("utf") else ""
        line = training_line(event, self._pace, curve, self._taken, err.width)
        self._bar(event.stage, event.step, event.steps, eta)
        self._region.update(Group(self._bars, Text(line, no_wrap=True)))

    def _usage(self, event: events.Usage) -> None:
        self._taken = event

    def _paused(self, event: events.Paused) -> None:
        self._tell("paused", event, saved=self._say["saved"] if event.saved else "")

    def _continued(self, event: events.Continued) -> None:
        self._tell("continued", event, time=duration(event.seconds))

    def _sampled(self, event: events.Sampled) -> None:
        prompt = " ".join(CHATML.sub(" ", event.prompt).split())
        prompt = prompt if len(prompt) <= 48 else f"…{prompt[-47:]}"  # its end is what is continued
        self._tell("sample", event, prompt=prompt, text=shortened(" ".join(event.text.split()), 60))

    def _eval(self, event: events.Eval) -> None:
        shown = {k: v for k, v in event.metrics.items() if k in MEASURED}
        shown |= {"accuracy": math.nan} if tied(shown) else {}
        figures = {name: "–" if math.isnan(value) else f"{value:.4f}" for name, value in shown.items()}
        values = "  ".join(f"{name.replace('_', ' ')} {figure}" for name, figure in figures.items())
        self._tell("validation", event, values=values)

    def _saved(self, event: events.Saved) -> None:
        pass

    def _stagefinished(self, event: events.StageFinished) -> None:
        self._bar(event.stage, 0, None, "", finished=True)
        if event.skipped:
            self._tell("kept", event)
        else:
            early = event.best_step < event.last_step
            best = self._say["best_of" if early else "best"].format(step=event.best_step, last=event.last_step)
            self._tell("finished", event, time=duration(event.seconds), best=best)

    def _compared(self, event: events.Compared) -> None:
        memory, planned = gigabytes(event.memory), gigabytes(event.planned_memory)
        line = self._say["memory"].format(stage=event.stage, memory=memory, planned=planned)
        if event.planned_seconds is not None:
            time = {"time": duration(event.seconds), "planned": duration(event.planned_seconds)}
            line += self._say["time"].format(**time)
        console.note(line + self._say["stop"])

    def _progress(self, event: events.Progress) -> None:
        self._bar(event.task, event.done, event.total, "", event.finished)
        line = event.task + (f": {event.done:,}" if event.done or event.total else "")
        line += f" of {event.total:,}" if event.total else ""
        if event.task != self._task[0]:  # its first line comes soon
            self._printed = time.monotonic() - SILENCE + FIRST_SIGN
            self._task = (event.task, line, time.monotonic())
        self._task = ("", "", 0.0) if event.finished else (event.task, line, self._task[2])
        self._plain(line, after=SILENCE)

    def _beat(self) -> None:
        """Where nothing moves: a line for a task that reports nothing itself, such as one call of a library."""
        while not self._ended.wait(min(1.0, FIRST_SIGN / 4)):
            name, line, began = self._task
            if name:
                self._plain(f"{line} … ({duration(time.monotonic() - began)})", after=SILENCE)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], AbstractContextManager]]:
    """A function for blocks that each do some of a total: it takes how many are done.

    Where stdout is a terminal what the blocks print shows how far it is: then only something moves while they work.
    """
    if sys.stdout.isatty():
        yield lambda done: waiting.working(f"{what}: {done:,} of {total:,}")
        return
    with Reporter() as report:

        def reported(done: int) -> AbstractContextManager:
            report(events.Progress(what, done, total))
            return nullcontext()

        yield reported
        report(events.Progress(what, total, total, finished=True))
