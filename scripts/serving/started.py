"""A server for a check: started as users start it, ended as a supervisor ends it."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS = re.compile(r"Chat page: (http://\S+)/ ")


class Started:
    """A running server: its address, its process, and what it has said so far."""

    def __init__(self, process: subprocess.Popen):
        self.process, self.lines = process, []
        for line in process.stderr:
            self.lines.append(line)
            if found := ADDRESS.search(line):
                self.url = found[1]
                break
        else:
            raise SystemExit("The server did not start:\n" + "".join(self.lines))
        threading.Thread(target=lambda: self.lines.extend(process.stderr), daemon=True).start()

    def end(self, seconds: float = 40) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)


@contextmanager
def serving(runs: list[Path], *flags: object) -> Iterator[Started]:
    """`minigpt serve` with these flags on any free port, for as long as the block lasts."""
    words = [sys.executable, "-m", "minigpt", "serve", *map(str, runs), "--port", "0", *map(str, flags)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    started = Started(process)
    try:
        yield started
    finally:
        if process.poll() is None:
            started.end()
