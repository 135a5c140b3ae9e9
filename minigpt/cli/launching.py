"""Several processes for one command: torchrun's or mlx.launch's command line, and what they tell of this process."""

import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minigpt.errors import check_name

if TYPE_CHECKING:
    from backends.group import Launched

OURS = "MINIGPT_PROCESSES"  # in the environment of processes that one command of ours has launched
PORTS = range(29_600, 32_700)  # where a ring of processes on this machine looks for free ones


def launched_by() -> "Launched | None":
    """How a launcher started this process (see `backends.group.Launched`); None for one that was started alone."""
    if "RANK" not in os.environ and "MLX_RANK" not in os.environ:
        return None  # without an import
    from backends.group import launched

    found = launched()
    return found if found and found.size > 1 else None


def launch_command(backend: str, count: int, program: Sequence[str]) -> list[str]:
    """The command that starts `python PROGRAM` in `count` processes on this machine, which share its cores."""
    from minigpt.machine.cgroups import usable_cores

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(usable_cores()) // count)))  # inherited
    os.environ[OURS] = str(count)
    ours = [sys.executable, "-m", f"backends.{backend}.launch"]
    if backend == "mlx":
        first = str(free_ports(count)[0])
        return [*ours, "-n", str(count), "-p", first, "--", sys.executable, *program]
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(count), "--shutdown-timeout", "600"]
    if program[0] == "-m":  # "--" ends torchrun's own options, which --run would be one of (--run-path)
        return [*ours, *options, "-m", "--", *program[1:]]
    return [*ours, *options, "--", *program]


def backend_named(name: str) -> str:
    """The backend's name, "auto" as everywhere, without importing it."""
    from backends import BACKENDS, installed
    from minigpt.machine import choose, is_apple

    check_name("backend", name, ("auto", *BACKENDS))
    return choose(is_apple(), [known for known in BACKENDS if installed(known)])[0] if name == "auto" else name


def free_ports(count: int) -> range:
    """`count` ports of this machine, one after the other, that nobody listens on now."""
    for first in range(PORTS.start + os.getpid() % 1000, PORTS.stop, count):
        if all(_is_free(port) for port in range(first, first + count)):
            return range(first, first + count)
    return range(PORTS.start, PORTS.start + count)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
