"""Signs of life: each process of a group writes into the run's directory, and finds out who does not any more.

An exchange of arrays waits for its partners for ever, and no framework tells a partner that computes for long from one
that is gone. So a thread of each process writes a file every second and reads those of the others. On the same machine
it also asks the system: a process that is there and not stopped lives, however long it is silent.
"""

import contextlib
import json
import os
import platform
import signal
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.errors import LOST
from minigpt.machine import readings
from minigpt.store.durable import write_whole

if TYPE_CHECKING:
    from backends.group import Group, Launched

DIRECTORY = ".ranks"  # in the run's directory
EVERY = 1.0  # seconds between two looks
STOPPED, SILENT = 10, 20  # looks after which a stopped process, and a silent one on another machine, count as lost
UNSEEN, STUCK = 60, 60  # looks: until a file that never came is missed; in which all wait and none gets further
RATE = 1e6  # bytes per second that an exchange makes at least: it is not stuck before
START = 600.0  # seconds until all processes must be there
GRACE = 5.0  # seconds in which the process that waits may end by itself, with its partner's error


@dataclass(frozen=True)
class Beat:
    """What a process says of itself. `ended` is its exit code, with the error that it `said`; None while it works."""

    pid: int
    host: str
    machine: int = 0  # hosts may have the same name
    number: int = 0
    exchanges: int = 0
    waiting: bool = False
    sending: int = 0
    ended: int | None = None
    said: str = ""


@dataclass
class Look:
    """What one process has seen of another: its last beat, and looks in a row without a newer one or as stopped."""

    beat: Beat | None = None
    silent: int = 0
    stopped: int = 0


@dataclass(frozen=True)
class Loss:
    """Why the training cannot go on. `code` is what a partner ended with, that has told its reason; else None."""

    text: str
    code: int | None = None
    pid: int | None = None  # of a process on this machine that is stopped and would never end


def state_of(pid: int) -> str:
    """ "gone", "stopped" or "there": what the system says of a process of this machine."""

    def question(psutil: Any) -> str:
        if not psutil.pid_exists(pid):
            return "gone"
        status = psutil.Process(pid).status()
        return {"zombie": "gone", "dead": "gone", "stopped": "stopped", "tracing-stop": "stopped"}.get(status, "there")

    return readings.asked(question) or "there"


def judge(rank: int, look: Look, beat: Beat | None, state: str | None) -> Loss | None:
    """Whether another process is lost, now that its `beat` was read; `state` is the system's word, None elsewhere."""
    newer = beat is not None and beat != look.beat
    look.silent = 0 if newer else look.silent + 1
    look.beat = beat or look.beat
    look.stopped = look.stopped + 1 if state == "stopped" else 0
    if look.beat is None:
        told = f"Rank {rank} has started, but its file in {DIRECTORY} is not seen from here"
        where = "the run's directory must be on a disk that all machines share"
        return Loss(f"{told}: {where}.") if look.silent >= UNSEEN else None
    who = f"Rank {rank} (process {look.beat.pid} on {look.beat.host})"
    if look.beat.ended is not None:
        return Loss(f"{who} ended: {look.beat.said}", look.beat.ended) if look.beat.ended else None
    if state == "gone":
        return Loss(f"{who} was killed.")
    if look.stopped >= STOPPED:
        return Loss(f"{who} was stopped and does not go on.", pid=look.beat.pid)
    if state is None and look.silent >= SILENT:
        return Loss(f"{who} has given no sign of life for {SILENT * EVERY:.0f} seconds.")
    return None


def all_wait(beats: list[Beat | None]) -> list[int]:
    """The exchange that each process waits in, as far as their beats say; none where one of them does not wait."""
    if any(one is None or not one.waiting for one in beats):
        return []
    return [one.exchanges for one in beats]


class Heartbeat:
    """The beats of one process and its watch over the others; a context. `group` is set once all have met.

    `tell` is given the reason before this process ends because of a partner.
    """

    def __init__(self, directory: Path, launched: "Launched", tell: Callable[[str], None]):
        self.directory, self.launched, self.tell = directory / DIRECTORY, launched, tell
        self.group: Group | None = None
        self.loss: Loss | None = None
        self._beat = Beat(os.getpid(), platform.node(), uuid.getnode())
        self._looks = {rank: Look() for rank in range(launched.size) if rank != launched.rank}
        self._stuck = self._started = 0
        self._waiting: list[int] = []  # at the last look: see all_wait
        self._over, self._found, self._writing = threading.Event(), threading.Event(), threading.Lock()

    def __enter__(self) -> "Heartbeat":
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write()
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def end(self, code: int, said: str) -> None:
        """The last beat: what this process ended with."""
        self._over.set()
        self._write(ended=code, said=said)

    def reason(self, seconds: float = 3 * EVERY) -> Loss | None:
        """Why an exchange failed, if that is found soon."""
        self._found.wait(seconds)
        return self.loss

    def of(self, rank: int) -> Beat | None:
        """The last beat of a process."""
        return read_beat(self.directory / f"rank-{rank}.json")

    # ---- the thread --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._over.wait(EVERY):
            self._write()
            self.loss = self.loss or self._look()
            if self.loss is not None:
                self._found.set()
                self._leave(self.loss)
                return

    def _write(self, **last: object) -> None:
        group = self.group
        with self._writing, contextlib.suppress(OSError):  # a full disk is found by what matters
            now = replace(self._beat, number=self._beat.number + 1)
            if group is not None:
                now = replace(now, exchanges=group.exchanges, waiting=group.waiting, sending=group.sending)
            self._beat = replace(now, **last)
            path = self.directory / f"rank-{self.launched.rank}.json"
            write_whole(path, json.dumps(asdict(self._beat)), flushed=False)

    def _look(self) -> Loss | None:
        if self.group is None:
            self._started += 1
            late = self._started * EVERY >= START
            return Loss(f"The other ranks did not come within {START:.0f} seconds.") if late else None
        for rank, look in self._looks.items():
            beat = self.of(rank)
            here = beat is not None and (beat.host, beat.machine) == (self._beat.host, self._beat.machine)
            if loss := judge(rank, look, beat, state_of(beat.pid) if here and beat.ended is None else None):
                return loss
        return self._all_wait()

    def _all_wait(self) -> Loss | None:
        """Whether all have waited so long, and none got further, that nothing will come of it."""
        beats = [self._beat, *(look.beat for look in self._looks.values())]
        before, self._waiting = self._waiting, all_wait(beats)
        self._stuck = self._stuck + 1 if self._waiting and self._waiting == before else 0
        if self._stuck * EVERY <= STUCK + max((beat.sending for beat in beats if beat is not None), default=0) / RATE:
            return None
        where = sorted(set(self._waiting))
        known = "MLX's all_sum is known to hang now and then with three and more processes (mlx issue 4475)."
        return Loss(" ".join([
            f"All ranks wait for each other in exchange {' and '.join(f'{number:,}' for number in where)}.",
            *["They have parted: not all have computed the same."] * (len(where) > 1),
            *[known] * (self.launched.backend == "mlx"),
        ]))  # fmt: skip

    def _leave(self, loss: Loss) -> None:
        """End this process, unless it does so by itself: what it waits for never comes, and holds it where nothing else
        can end it.
        """
        if loss.pid is not None:
            with contextlib.suppress(OSError):
                os.kill(loss.pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # or its launcher would wait for it
        if self._over.wait(GRACE):
            return
        if loss.code is None:
            self.tell(f"minigpt: {loss.text} {GO_ON}")
        self._write(ended=loss.code or LOST, said=loss.text)
        os._exit(loss.code or LOST)


GO_ON = "Training goes on from its last checkpoint when the same command is given again."


def read_beat(path: Path) -> Beat | None:
    """The beat in a file; None where there is none, or not yet."""
    try:
        return Beat(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def beats(run: Path) -> dict[int, Beat]:
    """The last beat of each process of the last group that trained in a run."""
    found = {path: read_beat(path) for path in (run / DIRECTORY).glob("rank-*.json")}
    return {int(path.stem.removeprefix("rank-")): beat for path, beat in found.items() if beat is not None}


def forget(run: Path) -> None:
    """Remove the files of an earlier group."""
    for path in (run / DIRECTORY).glob("rank-*.json"):
        path.unlink(missing_ok=True)
