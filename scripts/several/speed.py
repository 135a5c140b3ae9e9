"""How long a step takes by several processes, over this machine's memory and over throttled links."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from minigpt.cli.launching import free_ports, launch_command
from minigpt.plan.link import Link, shared

STEP = Path(__file__).with_name("step.py")
NEAR = 0.15  # of a predicted step in which the measured one must be
COLUMNS = ("Mbit/s", "computing", "predicted", "measured", "apart")
PLACES = ("minigpt-a", "minigpt-b")


def measured(directory: Path, command: Sequence[str], steps: int) -> dict:
    """What the first process of `step.py` wrote: {"step", "update", "tokens", "bytes"}, seconds as medians."""
    file = directory / "step.json"
    file.unlink(missing_ok=True)
    path = os.pathsep.join([str(STEP.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(file), str(steps)], env=environment, stdin=subprocess.PIPE, check=True)
    return json.loads(file.read_text("utf-8"))


def cells(directory: Path, backend: str, count: int, steps: int, known: dict = {}) -> list[str]:  # noqa: B006
    """[ms, tokens/s, to one process] of steps by `count` processes; `known` keeps those of one."""
    program = [str(STEP), backend]
    command = [sys.executable, *program] if count == 1 else launch_command(backend, count, program)
    found = measured(directory, command, steps)
    rate = found["tokens"] / (found["step"] + found["update"])
    known.setdefault(backend, rate)
    return [f"{1000 * (found['step'] + found['update']):.1f}", f"{rate:,.0f}", f"{rate / known[backend]:.2f}"]


@dataclass(frozen=True)
class Row:
    """A step of two processes at a bandwidth: computed, predicted from that, and measured, in seconds."""

    bandwidth: float
    computing: float
    predicted: float
    measured: float

    @property
    def apart(self) -> float:
        return abs(self.measured - self.predicted) / self.predicted

    def cells(self) -> list[str]:
        times = (f"{1000 * x:.0f} ms" for x in (self.computing, self.predicted, self.measured))
        return [f"{self.bandwidth:g}", *times, f"{self.apart:.0%}"]


def links(directory: Path, bandwidths: Sequence[float], steps: int) -> list[Row]:
    """Predicted and measured steps of two torch processes, each in a network namespace of its own.

    The computing is that of one process with the whole batch, from which the plan's formula takes the rest.
    """
    rows = []
    one = measured(directory, [sys.executable, str(STEP), "torch"], steps)
    for bandwidth in bandwidths:
        with ExitStack() as stack:
            laid(stack, bandwidth)
            found = two(directory, steps)
        link = Link(bandwidth * 1e6 / 8 * 0.95, 1e-4)
        row = shared(one["tokens"], one["step"], one["update"], one["bytes"], link, 2)
        rows.append(Row(bandwidth, row.computing, row.seconds, found["step"] + found["update"]))
    return rows


def laid(stack: ExitStack, bandwidth: float) -> None:
    """Two namespaces joined by a cable of so many Mbit/s; taken away when the stack ends."""
    for name in PLACES:
        _run("ip", "netns", "add", name)
        stack.callback(_run, "ip", "netns", "del", name)
    first, second = PLACES
    _run("ip", "link", "add", "cable-a", "netns", first, "type", "veth", "peer", "name", "cable-b", "netns", second)
    for number, (name, device) in enumerate(zip(PLACES, ("cable-a", "cable-b"), strict=True), start=1):
        _run("ip", "-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", device)
        for one in (device, "lo"):
            _run("ip", "-n", name, "link", "set", one, "up")
        _run("tc", "-n", name, "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{bandwidth:g}mbit", "burst",
             "64kb", "latency", "100ms")  # fmt: skip


def two(directory: Path, steps: int, way: str = "torch") -> dict:
    """The step of two processes as torchrun starts them on two machines; `way` as in step.py."""
    port, file = free_ports(1)[0], directory / "step.json"
    file.unlink(missing_ok=True)
    started = []
    for number, name in enumerate(PLACES):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "backends.torch.launch", "--nnodes", "2",
                   "--node-rank", str(number), "--master-addr", "10.77.0.1", "--master-port", str(port), "--",
                   str(STEP), way, str(file), str(steps)]  # fmt: skip
        path = os.pathsep.join([str(STEP.parents[1]), os.environ.get("PYTHONPATH", "")])
        started.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}))
    for process in started:
        if process.wait():
            raise RuntimeError(f"a process ended with {process.returncode}")
    return json.loads(file.read_text("utf-8"))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def exchanges(directory: Path, processes: int, calls: int) -> tuple[int, float]:
    """(exchanges done, seconds) of gradient-like sums by several MLX processes, which may hang."""
    began = time.monotonic()
    command = launch_command("mlx", processes, [str(STEP), "exchanges", str(directory / "done"), str(calls)])
    path = os.pathsep.join([str(STEP.parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}) as process:
        seen, since = 0, time.monotonic()
        while process.poll() is None and time.monotonic() - since < 60:
            time.sleep(0.5)
            size = (directory / "done").stat().st_size if (directory / "done").exists() else 0
            seen, since = (size, time.monotonic()) if size > seen else (seen, since)
        process.kill()
    return seen, time.monotonic() - began


def typical(times: Sequence[float]) -> float:
    """The median without the first ones, in which the framework gets ready."""
    return median(times[min(3, len(times) // 4) :])
