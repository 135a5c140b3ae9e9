"""The command on a terminal of its own: what is typed into it, and what it shows."""

import os
import pty
import re
import select
import signal
import time

from command import environment, process

CODES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78])")


class Terminal:
    """`with Terminal("chat", run) as terminal`: 60 columns, colours off; the process ends with the block."""

    def __init__(self, *arguments, columns=60, **variables):
        self.ours, theirs = pty.openpty()
        os.set_blocking(self.ours, False)
        variables = environment(TERM="xterm-256color", COLUMNS=str(columns), NO_COLOR="1", **variables)
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.began = time.monotonic()
        self.process = process(*arguments, env=variables, start_new_session=True, **streams)
        os.close(theirs)
        self.raw, self.times = b"", []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)

    @property
    def shown(self):
        """All that was shown so far, without codes."""
        return CODES.sub("", self.raw.decode("utf-8", "replace")).replace("\r", "")

    def read(self, seconds=0.05):
        """Whether something new was shown within that time."""
        if not select.select([self.ours], [], [], seconds)[0]:
            return False
        try:
            part = os.read(self.ours, 1 << 16)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.raw += part
        self.times.append(time.monotonic() - self.began)
        return bool(part)

    def until(self, words, seconds=60, after=0):
        """Read until `words` are shown after the first `after` characters; returns where they end."""
        end = time.monotonic() + seconds
        while (place := self.shown.find(words, after)) < 0:
            assert time.monotonic() < end, self.shown
            assert self.read() or self.process.poll() is None, self.shown
        return place + len(words)

    def type(self, text):
        os.write(self.ours, text.encode())

    def interrupt(self):
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self, seconds=60):
        """The exit code, once the process has ended."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, self.shown
            self.read()
        while self.read():
            pass
        return self.process.returncode
