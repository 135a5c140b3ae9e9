"""The program on a terminal of its own (not on Windows)."""

import os
import re
import select
import subprocess
import time

from cases.program import Program, Wrong

CODES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78])")


class Terminal:
    """`with Terminal(program, "chat", run) as terminal`; `shown` is all it showed, without colours and cursors."""

    def __init__(self, program: Program, *words: object):
        self.ours, theirs = os.openpty()
        os.set_blocking(self.ours, False)
        env = program.environment(None, {"TERM": "xterm-256color", "COLUMNS": "100", "NO_COLOR": "1"})
        self.process = subprocess.Popen(
            [*program.command, *map(str, words)], cwd=program.directory, env=env,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.raw = b""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)

    @property
    def shown(self) -> str:
        return CODES.sub("", self.raw.decode("utf-8", "replace")).replace("\r", "")

    def until(self, words: str, after: int = 0, seconds: float = 60.0) -> int:
        """Read until `words` are shown after the first `after` characters; returns where they end."""
        end = time.monotonic() + seconds
        while (place := self.shown.find(words, after)) < 0:
            if time.monotonic() > end or (not self._read() and self.process.poll() is not None):
                raise Wrong(f"{words!r} was never shown, but {self.shown[-200:]!r}")
        return place + len(words)

    def quiet(self, seconds: float = 2.0) -> int:
        """Read until nothing was shown for so long; returns how much was shown."""
        last = time.monotonic()
        while time.monotonic() - last < seconds:
            if self._read():
                last = time.monotonic()
        return len(self.shown)

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def ended(self, seconds: float = 60.0) -> int:
        """The exit code, once the process has ended."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise Wrong("it does not end")
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        if not select.select([self.ours], [], [], 0.1)[0]:
            return False
        try:
            part = os.read(self.ours, 1 << 16)
        except OSError:  # the other side is closed
            return False
        self.raw += part
        return bool(part)
