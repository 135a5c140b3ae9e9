"""The one exception a user may see: what happened, where, and what to do next."""

import difflib
from collections.abc import Sequence

RUNTIME, USAGE, DATA, RESOURCES, CORRUPT, INTERRUPTED = 1, 2, 3, 4, 5, 130


class MiniGPTError(Exception):
    """A mistake the user can mend. `hint` says what to do; `exit_code` is what the process returns."""

    exit_code = RUNTIME

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(MiniGPTError):
    """A wrong flag, file name or configuration value."""

    exit_code = USAGE


class DataError(MiniGPTError):
    """Unusable training data; the message names `file:line`."""

    exit_code = DATA


class ResourceError(MiniGPTError):
    """The machine has too little memory, disk or time for what was asked."""

    exit_code = RESOURCES


class CheckpointError(MiniGPTError):
    """A checkpoint that is incomplete or does not match its checksums."""

    exit_code = CORRUPT


class Interrupted(MiniGPTError):
    """Ctrl-C during training; the hint says where the same command goes on."""

    exit_code = INTERRUPTED


def check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Raises UsageError, with the name that was probably meant, when there is no `kind` of that name."""
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Choose one of {', '.join(known)}."
        raise UsageError(f"There is no {kind} {name!r}.", hint)
