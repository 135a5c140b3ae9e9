"""What a page asks of a training: to stop, and to write samples now. Both survive the page and its server.

To stop, the process that holds the run gets SIGTERM, as from `kill`: it saves a checkpoint first. A request for
samples is a file in the run's directory, which training removes when it has answered.
"""

import contextlib
import os
import platform
import signal
from pathlib import Path

from minigpt.errors import MiniGPTError
from minigpt.store.lock import holder

STOP, SAMPLE = "stop.request", "sample.request"


def ask_stop(directory: Path) -> None:
    """Ask the process that trains in a run to save and end. Raises MiniGPTError when none does on this machine."""
    process = holder(directory)
    if process is None:
        raise MiniGPTError(f"No process trains in {directory} now.")
    if process["host"] != platform.node():
        message = f"Process {process['pid']} trains in {directory} on {process['host']}."
        raise MiniGPTError(message, "Stop it on that machine.")
    (directory / STOP).write_text(str(process["pid"]), "utf-8")
    try:
        os.kill(process["pid"], signal.SIGTERM)
    except OSError as error:
        message = f"Process {process['pid']}, which trains in {directory}, could not be asked: {error.strerror}."
        raise MiniGPTError(message) from None


def ask_sample(directory: Path) -> None:
    """Ask for samples after the next step. Raises MiniGPTError when nothing trains in the run."""
    if holder(directory) is None:
        raise MiniGPTError(f"No process trains in {directory} now.")
    (directory / SAMPLE).touch()


def pending(directory: Path) -> list[str]:
    """Which requests are not answered yet: "stop", "sample". Those to a process that has ended are removed."""
    process = holder(directory)
    found = []
    for name, path in (("stop", directory / STOP), ("sample", directory / SAMPLE)):
        with contextlib.suppress(OSError):
            stale = process is None or (name == "stop" and path.read_text("utf-8") != str(process["pid"]))
            if stale:
                path.unlink()
            elif path.exists():
                found.append(name)
    return found


def take_sample(directory: Path) -> bool:
    """For the training: whether samples were asked for; the request is then answered and gone."""
    try:
        (directory / SAMPLE).unlink()
        return True
    except OSError:
        return False
