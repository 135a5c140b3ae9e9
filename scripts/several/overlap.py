"""Does it pay to begin the sums of gradients while the backward pass still computes? Two torch processes, with and
without, over this machine's memory and over throttled links.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from minigpt.cli.launching import launch_command
from several import speed

COLUMNS = ("Mbit/s", "afterwards", "early", "early / afterwards", "same weights")
WAYS = ("torch", "torch-early")


def compared(directory: Path, bandwidths: Sequence[float], steps: int, rounds: int = 3) -> list[list[str]]:
    """A row for the loopback device and, as root, for each bandwidth in Mbit/s: the best of `rounds` in turns."""
    cells = []
    for bandwidth in (None, *(bandwidths if os.geteuid() == 0 else ())):
        best, sums = dict.fromkeys(WAYS, float("inf")), set()
        for _ in range(rounds):
            for way in WAYS:
                found = _step(directory, bandwidth, steps, way)
                best[way] = min(best[way], found["step"])
                sums.add(found["sum"])
        after, early = (best[way] for way in WAYS)
        times = [f"{1000 * seconds:.0f} ms" for seconds in (after, early)]
        same = "yes" if len(sums) == 1 else "NO"
        cells.append(["-" if bandwidth is None else f"{bandwidth:g}", *times, f"{early / after:.2f}", same])
    return cells


def _step(directory: Path, bandwidth: float | None, steps: int, way: str) -> dict:
    if bandwidth is None:
        return speed.measured(directory, launch_command("torch", 2, [str(speed.STEP), way]), steps)
    with ExitStack() as stack:
        speed.laid(stack, bandwidth)
        return speed.two(directory, steps, way)
