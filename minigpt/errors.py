"""The one exception a user may see: what happened, where, and what to do next."""

import difflib
import re
from collections.abc import Sequence

RUNTIME, USAGE, DATA, RESOURCES, CORRUPT, INTERRUPTED = 1, 2, 3, 4, 5, 130
LOST = 6


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


class OutOfMemory(ResourceError):
    """The framework found no memory for a step; with fewer rows at once it may fit."""


class ProcessLost(MiniGPTError):
    """Another process of the same training has ended, or does not answer any more."""

    exit_code = LOST


class Interrupted(MiniGPTError):
    """A signal ended training between two steps; `exit_code` is 128 + its number, as shells have it."""

    def __init__(self, message: str, hint: str, signal: int):
        super().__init__(message, hint)
        self.exit_code = 128 + signal


def out_of_memory(error: BaseException) -> OutOfMemory | None:
    """The error of a framework that found no memory, in our words; None for any other error."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and says_out_of_memory(str(error))):
        first = (str(error).splitlines() or ["MemoryError"])[0]
        return OutOfMemory(
            f"The memory ran out during training: {first[:200].rstrip('.')}.",
            "Raise grad_accumulation (more micro-batches per step, the same result) or make the model smaller.",
        )
    return None


def says_out_of_memory(text: str) -> bool:
    """Whether a framework's or the system's message tells of memory that could not be had."""
    words = "out of memory|insufficient memory|memory ran out|(unable to|can't|cannot) allocate|bad_alloc"
    return re.search(words, text, re.IGNORECASE) is not None


def says_gpu_timeout(text: str) -> bool:
    """Whether Metal ended a computation that kept the GPU busy for too long."""
    return re.search("impacting interactivity|gpu timeout|gpu hang", text, re.IGNORECASE) is not None


def check_name(kind: str, name: str, known: Sequence[str]) -> None:
    """Raises UsageError, with the name that was probably meant, when there is no `kind` of that name."""
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Choose one of {', '.join(known)}."
        raise UsageError(f"There is no {kind} {name!r}.", hint)
