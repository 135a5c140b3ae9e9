"""One process at a time trains in a run directory."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigpt.errors import MiniGPTError

try:
    import fcntl  # noqa: F401 (with which filelock locks)

    NAME, HOLDER = ".lock", ".lock"
except ImportError:  # Windows, where nobody else can read a locked file
    NAME, HOLDER = ".lock", ".lock.json"
MOMENT = 0.2  # seconds for which a lock is tried: its holder may be about to remove the file


@contextmanager
def locked(directory: Path) -> Iterator[int | None]:
    """Hold an existing directory for this process; yields the id of a process that died while it held it, or None.

    The kernel releases the lock with the process, however that ends, so that a file that is left over means
    nothing. Raises MiniGPTError when another process holds the directory.
    """
    from filelock import FileLock, Timeout

    path, holder = directory / NAME, directory / HOLDER
    lock = FileLock(path, timeout=MOMENT, mode=0o644, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        owner = _owner(holder)
        who = f"process {owner['pid']} on {owner['host']} since {owner['since']}" if owner else "another process"
        message = f"{directory} is in use: {who} trains there."
        raise MiniGPTError(message, "Wait for it, stop it, or choose another --run directory.") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"{directory} is on a disk that cannot lock files: {reason}."
        raise MiniGPTError(message, "Choose a --run directory on a local disk.") from None
    try:
        left = _owner(holder)
        owner = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        holder.write_text(json.dumps(owner), "utf-8")
        yield left.get("pid")
    finally:
        holder.unlink(missing_ok=True)
        with contextlib.suppress(PermissionError):  # Windows removes no file that is open; `release` does it there
            path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile sees that it is gone
        lock.release()


def _owner(holder: Path) -> dict:
    """What the file says of the process that holds, or held, the lock."""
    try:
        owner = json.loads(holder.read_text("utf-8"))
        return owner if {"pid", "host", "since"} <= owner.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def holder(directory: Path) -> dict | None:
    """{"pid", "host", "since"} of the process that holds the directory now, or None. Changes nothing.

    Of a process on another machine only its file can be seen: on a shared disk it counts as a holder.
    """
    owner = _owner(directory / NAME)
    if not owner or owner["host"] != platform.node():
        return owner or None
    try:
        os.kill(owner["pid"], 0)
        with (directory / NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # held for an instant, only where the owner has gone
    except (BlockingIOError, PermissionError):
        return owner
    except (OSError, TypeError, ValueError, OverflowError):
        pass
    return None
