"""The processes that train a run together: how they meet, what must be the same in all of them, and how they part."""

import contextlib
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backends.base import Backend
from backends.group import ALONE, Group, Launched, PartnerLost, launched
from minigpt import __version__
from minigpt.config import flattened
from minigpt.errors import LOST, RUNTIME, MiniGPTError, ProcessLost, UsageError
from minigpt.runs.heartbeat import GO_ON, Heartbeat
from minigpt.units import shortened

MOMENT = 3.0  # seconds in which the first process says what is wrong, before another one does


@contextmanager
def joined(
    directory: Path, backend: Backend, same: dict[str, Any], tell: Callable[[str], None] = lambda text: None
) -> Iterator[Group]:
    """The group that a launcher started this process in, which `backend` has within the block; alone without one.

    `same` is what all processes must have alike. Raises UsageError where they do not, and ProcessLost when another
    process ends or does not answer any more; `tell` says so where this process is stuck and is ended at once.
    """
    found = launched()
    if found is None or found.size == 1:
        yield ALONE
        return
    check_launcher(found, backend.name)
    with Heartbeat(directory, found, tell) as heart, _told(heart, found):
        backend.group = heart.group = group = _meet(backend, found)
        try:
            check_same(group, versions(backend) | same)
            yield group
        finally:
            backend.group = ALONE
            group.close()


@contextmanager
def alone(backend: Backend) -> Iterator[None]:
    """What the block computes is this process's own: the others have no part in it."""
    group, backend.group = backend.group, ALONE
    try:
        yield
    finally:
        backend.group = group


def check_launcher(found: Launched, backend: str) -> None:
    """Raises UsageError when the launcher is that of another backend."""
    if found.backend != backend:
        other = {"torch": "torchrun", "mlx": "mlx.launch"}[backend]
        raise UsageError(
            f"{found.launcher} started this process, and the backend is {backend}.",
            f"Start it with {other}, or give --backend {found.backend}.",
        )


def versions(backend: Backend) -> dict[str, Any]:
    """What decides how numbers are rounded: programs and libraries, not the machine."""
    framework = {name: value for name, value in backend.runtime.versions().items() if name == backend.name}
    return {"version of minigpt": __version__, "version of python": platform.python_version()} | {
        f"version of {name}": value for name, value in framework.items()
    }


def check_same(group: Group, values: dict[str, Any]) -> None:
    """Raises UsageError, which names the rank and what differs, when the processes' values are not the same."""
    if group.size == 1:
        return
    found = group.gather({"host": platform.node(), "values": flattened(values)})
    first = found[0]["values"]
    for rank, other in enumerate(found[1:], start=1):
        theirs = other["values"]
        for name in [*first, *(name for name in theirs if name not in first)]:
            if first.get(name) != theirs.get(name):
                raise UsageError(
                    f"Rank {rank} on {other['host']} differs from rank 0 on {found[0]['host']}: {name} is "
                    f"{_short(theirs.get(name))}, not {_short(first.get(name))}.",
                    "Start all processes with the same command, the same versions and the same data.",
                )


def _short(value: Any) -> str:
    return shortened("missing" if value is None else str(value), 60)


def _meet(backend: Backend, found: Launched) -> Group:
    try:
        group = backend.grouped(found)
    except RuntimeError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise MiniGPTError(
            f"The processes could not reach each other: {first[:200]}.",
            "Is the port free, the address of rank 0 right, and the network interface (GLOO_SOCKET_IFNAME) one that "
            "all machines reach? The handbook's chapter parallel says how to choose them.",
        ) from None
    if (group.rank, group.size) != (found.rank, found.size):
        raise MiniGPTError(
            f"{found.launcher} started {found.size} processes, and {backend.name} found {group.size}.",
            "Was the framework built without support for several processes?",
        )
    return group


@contextmanager
def _told(heart: Heartbeat, found: Launched) -> Iterator[None]:
    """How the block ended is told to the others, and theirs to the user where they have not done so."""
    try:
        yield
    except PartnerLost as error:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, before the reason is told
        loss = heart.reason()
        code = LOST if loss is None or loss.code is None else loss.code
        text = f"An exchange with the other ranks failed: {error}" if loss is None else loss.text
        heart.end(code, text)
        if code != LOST:
            raise SystemExit(code) from None  # the other one has said why
        raise ProcessLost(text, GO_ON) from None
    except MiniGPTError as error:
        heart.end(error.exit_code, error.message)
        if found.rank and _said_by_first(heart, error.message):
            raise SystemExit(error.exit_code) from None
        error.message = f"Rank {found.rank}: {error.message}" if found.rank else error.message
        raise
    except BaseException as error:
        number = getattr(error, "number", 2)
        code = 128 + number if isinstance(error, KeyboardInterrupt) else RUNTIME
        said = f"{type(error).__name__}: {error}"
        heart.end(code, said)
        if found.rank and (isinstance(error, KeyboardInterrupt) or _said_by_first(heart, said)):
            raise SystemExit(code) from None
        if found.rank and isinstance(error, Exception):
            message = f"Rank {found.rank}: unexpected {said}."
            raise MiniGPTError(message, "Run again with --debug for the details.") from error
        raise
    else:
        heart.end(0, "")


def _said_by_first(heart: Heartbeat, message: str) -> bool:
    """Whether the first process ends with the same words."""
    until = time.monotonic() + MOMENT
    while time.monotonic() < until:
        beat = heart.of(0)
        if beat is not None and beat.ended is not None:
            return beat.said == message
        time.sleep(0.05)
    return False
