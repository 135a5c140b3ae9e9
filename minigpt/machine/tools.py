"""Asking the system: each question is optional and has its time; without an answer the text is empty."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from minigpt.machine import readings

Run = Callable[[Sequence[str]], str]  # a command -> what it prints
Read = Callable[[str], str]  # a path -> the file's text

TIMEOUT = 2.0  # seconds that one tool may take


def run(command: Sequence[str], timeout: float = TIMEOUT) -> str:
    """What a command prints on stdout; "" when it is not there or takes too long.

    Its exit code does not matter: `sysctl` fails when one of many names is unknown, and answers the others.
    """
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        process = subprocess.Popen(command, start_new_session=True, env=os.environ | {"LC_ALL": "C"}, **streams)
    except (OSError, ValueError):
        return ""
    with process:
        try:
            return process.communicate(timeout=timeout)[0].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            _end(process)
            return ""


def _end(process: subprocess.Popen) -> None:
    """End a tool with its children, which would keep the pipe open."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
            return
        for child in readings.children(process.pid):
            os.kill(child, signal.SIGTERM)  # which Windows carries out at once
        process.kill()


def read(path: str | Path) -> str:
    """The text of a file such as /proc/meminfo; "" when it cannot be read."""
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def power_supplies(root: Path = Path("/sys/class/power_supply")) -> dict[str, dict[str, str]]:
    """name -> {type, online, status, capacity, scope} of Linux's power supplies, as far as there are such files."""
    kinds = ("type", "online", "status", "capacity", "scope")
    found = sorted(root.iterdir()) if root.is_dir() else []
    return {one.name: {kind: read(one / kind).strip() for kind in kinds} for one in found}


def whole(text: str | None) -> int | None:
    """The whole number that a text is; None for anything else."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None
