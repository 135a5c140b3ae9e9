"""A parent that watches the training process: says why it died, and starts it again from its last checkpoint.

Frameworks can abort where Python catches nothing (Metal's memory and time limits, CUDA, the system's out-of-memory
killer). The parent imports no framework and takes almost no memory. It receives the signals and hands them on, so
that one Ctrl-C means one request to stop.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from minigpt.errors import INTERRUPTED, LOST, RESOURCES, RUNTIME, says_gpu_timeout, says_out_of_memory
from minigpt.runs.heartbeat import Beat, beats, forget
from minigpt.train.stop import SIGNALS

SUPERVISED, LESS_MEMORY = "MINIGPT_SUPERVISED", "less memory"  # tell the child why it was started
PARENT = "MINIGPT_PARENT"  # and by which process: it may have ended before the child could ask the system
CAUSES = {
    "SIGKILL": "killed by the system or by somebody",
    "SIGABRT": "aborted inside the framework",
    "SIGSEGV": "ended by a memory fault inside the framework",
    "SIGBUS": "ended by a memory fault inside the framework",
}
REST = 1.0  # seconds in which the system and its drivers free what the child held
WINDOWS, POLL = hasattr(subprocess, "CREATE_NEW_PROCESS_GROUP"), 0.2  # seconds
# Exit codes with which Windows ends a process (NTSTATUS), as the signals that mean the same.
NTSTATUS = {0xC0000005: signal.SIGSEGV, 0xC0000409: signal.SIGABRT, 0xC000001D: signal.SIGILL}


def supervise(
    command: Sequence[str], log: Path, restarts: int, tell: Callable[[str], None], processes: int = 1
) -> int:
    """Run `command` until it ends by itself, at most `restarts` times anew; returns the exit code for the caller.

    With several `processes` it is their launcher, and how they ended is in the run's directory.

    `log` is where the child writes what its frameworks say. A child that returned an exit code is not started
    again, except when that was for want of memory.
    """
    smaller, stuck_at, deaths = False, None, 0  # deaths: without a checkpoint in between
    for restart in range(1, restarts + 2):
        if processes > 1:
            forget(log.parent)
        kills, length = system_memory_kills(), _size(log)
        child = _Child(command, {SUPERVISED: LESS_MEMORY if smaller else "yes", PARENT: str(os.getpid())})
        code = child.wait() if processes == 1 else ended_as(beats(log.parent), processes, child.wait())
        said = _tail(log, length)
        memory = says_out_of_memory(said) or (_name(code) == "SIGKILL" and (system_memory_kills() or 0) > (kills or 0))
        if child.stopped_by:
            return code if 0 <= code < INTERRUPTED - 2 else 128 + child.stopped_by  # an error of its own, or the signal
        if code >= 0 and not (code == RESOURCES and memory):
            return code
        reached = _last_checkpoint(log.parent)
        deaths, stuck_at = deaths + 1 if reached == stuck_at else 1, reached
        if code < 0:
            who = "The training process" if processes == 1 else "A rank of the training"
            again = f" That was number {deaths} in a row without a checkpoint in between." if deaths > 1 else ""
            tell(f"{who} was {_cause(-code, memory, said)}.{again}")
        if restart <= restarts:
            said_why = memory or says_gpu_timeout(said)
            smaller = said_why or (deaths > 1 and may_be_memory(code, kills is not None))
            how = ", with more micro-batches per step and the same batch" if smaller else ""
            how += ", in case the memory ran out" if smaller and not said_why else ""
            tell(f"It goes on from its last checkpoint{how} (restart {restart} of {restarts}).")
            time.sleep(REST)
    tell(f"That was the last of {restarts} restarts. The same command goes on from the last checkpoint; see {log}.")
    return RESOURCES if memory else RUNTIME


def ended_as(found: dict[int, Beat], processes: int, launched: int) -> int:
    """The exit code of a group whose launcher ended with the code `launched`, or minus a signal where one was killed.

    An error of its own goes before what it made of the others: those lost a partner, or were asked to stop.
    """
    codes = [beat.ended for beat in found.values() if beat.ended is not None]
    own = [code for code in (*codes, launched) if 0 < code < LOST]
    if launched == 0:
        return 0
    if len(codes) == processes and all(code > 128 for code in codes):
        return codes[0]
    return own[0] if own else -signal.SIGTERM if WINDOWS else -signal.SIGKILL


class _Child:
    """The training process. Signals that reach this process ask it to stop; a second Ctrl-C kills it."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]):
        self.stopped_by = 0
        self._process: subprocess.Popen | None = None
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._stop)
        # Ctrl-C in a terminal reaches both processes: the child leaves it to the parent.
        alone: dict[str, Any] = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if WINDOWS
            else {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
        )  # fmt: skip
        self._process = subprocess.Popen(command, env=os.environ | environment, **alone)

    def wait(self) -> int:
        """The child's exit code, or minus the signal that killed it."""
        try:
            if self.stopped_by:  # before there was a child to hear it
                self._ask()
            code = self._wait()
            return -NTSTATUS[code] if code in NTSTATUS else code
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        again = self.stopped_by == number == signal.SIGINT
        self.stopped_by = number
        if self._process is not None:
            self._process.kill() if again else self._ask()

    def _ask(self) -> None:
        """Ask the child to stop; on Windows `terminate` would end it at once."""
        if WINDOWS:
            self._process.send_signal(signal.CTRL_BREAK_EVENT)
        else:
            self._process.terminate()

    def _wait(self) -> int:
        """The child's exit code. Windows runs no signal handler while a wait without an end goes on."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(POLL if WINDOWS else None)


def system_memory_kills() -> int | None:
    """How often this system's kernel has killed a process for want of memory; None where it does not count (Linux
    does).
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
    except (OSError, ValueError, IndexError):
        return None


def may_be_memory(code: int, counted: bool) -> bool:
    """Whether a process that died twice in a row, without a word, may have found no memory.

    Not every framework says so (MLX's CPU device reads from address 0). A kernel that has `counted` no kill of its own
    did not send the SIGKILL; an abort is always explained.
    """
    return _name(code) in ("SIGSEGV", "SIGBUS") or (_name(code) == "SIGKILL" and not counted)


def _cause(number: int, memory: bool, said: str) -> str:
    name = _name(-number)
    cause = CAUSES.get(name, "ended")
    why = ": the memory ran out" if memory else ": the GPU took too long for one step" if says_gpu_timeout(said) else ""
    last = next(iter(_messages(said)), "")
    return f"{cause} ({name}){why}" + (f". Its last words: {last[:200].rstrip('.')}" if last else "")


def _name(code: int) -> str:
    """The name of the signal that an exit code below 0 means; "" for another code."""
    return next((one.name for one in signal.Signals if one == -code), f"signal {-code}") if code < 0 else ""


def _messages(said: str) -> list[str]:
    """The lines of a framework, the last one first, without Python's own dump of where it was."""
    lines = said.partition("Fatal Python error")[0].splitlines()
    return [line.strip() for line in reversed(lines) if line.strip() and not line.startswith("--- ")]


def _last_checkpoint(run: Path) -> tuple[int, str]:
    """What changes when a training process of this run saves something."""
    found = [(path.stat().st_mtime_ns, path.name) for path in run.glob("*/checkpoints/step-*/manifest.json")]
    return max(found, default=(0, ""))


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _tail(log: Path, start: int) -> str:
    """What was appended to the log after `start`, at most its last 20,000 bytes."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(start, _size(log) - 20_000))
        return file.read().decode("utf-8", "replace")
