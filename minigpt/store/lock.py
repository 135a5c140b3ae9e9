"""One process at a time trains in a run directory."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigpt.errors import MiniGPTError

NAME = ".lock"


@contextmanager
def locked(directory: Path) -> Iterator[int | None]:
    """Hold an existing directory for this process; yields the id of a process that died while it held it, or None.

    The kernel releases the lock with the process, however that ends, so that a file that is left over means
    nothing. Raises MiniGPTError when another process holds the directory.
    """
    path = directory / NAME
    descriptor = _acquire(path)
    try:
        left = _owner(path)
        os.ftruncate(descriptor, 0)
        owner = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.write(descriptor, json.dumps(owner).encode())
        yield left.get("pid")
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile sees that it is gone
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                message = f"{path.parent} is on a disk that cannot lock files: {error.strerror}."
                raise MiniGPTError(message, "Choose a --run directory on a local disk.") from None
            owner = _owner(path)
            who = f"process {owner['pid']} on {owner['host']} since {owner['since']}" if owner else "another process"
            message = f"{path.parent} is in use: {who} trains there."
            raise MiniGPTError(message, "Wait for it, stop it, or choose another --run directory.") from None
        if _same(descriptor, path):
            return descriptor
        os.close(descriptor)  # its owner removed it between our opening and locking it


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _owner(path: Path) -> dict:
    """What the file says of the process that holds, or held, the lock."""
    try:
        owner = json.loads(path.read_text("utf-8"))
        return owner if {"pid", "host", "since"} <= owner.keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}
