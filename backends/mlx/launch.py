"""`python -m backends.mlx.launch …`: mlx.launch whose processes are asked to stop when it is.

mlx.launch itself dies of SIGTERM and leaves them alone. It also looks for input so eagerly that it keeps a core busy;
nobody types into a training, so that it is made to look ten times a second.
"""

import re
import select
import signal
import sys
import time


def main() -> int:
    """mlx.launch with the arguments of this process; returns the exit code of the first process that failed."""
    from mlx._distributed_utils import launch

    codes: list[int] = []

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: _pass_on(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the processes themselves, or their supervisor
    launch.select = patient
    launch.log_warning = lambda text: codes.extend(int(code) for code in re.findall(r"exited with code (-?\d+)", text))
    launch.main()
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def patient(reads: list, writes: list, errors: list, timeout: float | None = None) -> tuple[list, list, list]:
    """`select` that does not return at once for a pipe that may be written to: there is nothing to write."""
    if sys.stdin is not None and reads == [sys.stdin.fileno()]:
        time.sleep(0.1)
        return [], [], []
    found = select.select(reads, [], errors, 0.1 if timeout else 0)
    return found[0], [], found[2]


def _pass_on(number: int) -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.send_signal(number)


if __name__ == "__main__":
    raise SystemExit(main())
