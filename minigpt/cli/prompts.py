"""Where prompts come from: an argument, a flag, a file, or what is piped in."""

import os
import stat
import sys
from pathlib import Path

from minigpt.cli.opening import valid
from minigpt.errors import UsageError


def texts_of(text: str | None, prompt: str | None, file: Path | None, message: bool) -> list[str]:
    """The prompts that a command was given, in one of four ways; [""] when none was.

    Raises UsageError when two ways are used, a file has none, or a `message` is empty; DataError for bytes that are
    not UTF-8.
    """
    given = [name for name, value in (("TEXT", text), ("--prompt", prompt), ("--prompts", file)) if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other.", "Give one of them.")
    if file is not None:
        return _lines(file)
    if (prompt or text) == "-" or (not given and _piped()):
        found = _without_last_line_end(valid(_read_stdin(), "stdin"))
    else:
        found = valid(prompt or text or "", "--prompt" if text is None else "TEXT")
    if message and not found.strip():
        raise UsageError("The message is empty.", "Give it with --prompt.")
    return [found]


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        message = f"The prompts in {file} cannot be read: {error.strerror}."
        raise UsageError(message, "Check the path given to --prompts.") from None
    lines = [valid(line, f"{file}:{number}") for number, line in enumerate(text.split("\n"), 1)]
    if not any(lines):
        raise UsageError(f"{file} has no prompts.", "Write one per line.")
    return [line for line in lines if line]


def _piped() -> bool:
    """Whether stdin is a pipe or a file, from which a prompt may come; not a terminal, and not /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # a stream of Python's own
        return not sys.stdin.isatty()
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _read_stdin() -> str:
    from minigpt.cli import waiting

    with waiting.working("Reading the prompt from stdin"):
        return sys.stdin.read()


def _without_last_line_end(text: str) -> str:
    """`echo question | minigpt …` means the question, not the question and an empty line."""
    return text.removesuffix("\n").removesuffix("\r")
