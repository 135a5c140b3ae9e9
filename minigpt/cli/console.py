"""Messages on stderr and in the log of a run, data on stdout."""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from minigpt import events


class _Out(Console):
    def on_broken_pipe(self) -> None:
        raise  # the reader has gone (`| head`): cli.main ends quietly, rich would exit with 1


out = _Out(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


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


def hush() -> None:
    """Say nothing from now on: another process of the same training speaks."""
    out.quiet = err.quiet = True


def aloud(text: str) -> None:
    """A last sentence, also of a process that is hushed."""
    err.quiet = False
    note(text)


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
