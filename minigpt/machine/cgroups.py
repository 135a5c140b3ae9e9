"""How many cores and how much memory this process may use: the machine's, or a container's share of them (Linux)."""

import os
from pathlib import Path

from minigpt.machine.tools import read

ROOT = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2⁶³ for "no limit"


def usable_cores(root: Path = ROOT) -> float:
    """Cores that this process may keep busy at once; a container's quota may be a fraction such as 1.5."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for directory in directories(root, "cpu") if (quota := cpu_quota(directory)) is not None]
    return min([float(affinity), *quotas])


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that this process's container may use, or None."""
    return min((size for d in directories(root, "memory") if (size := memory_bound(d)) is not None), default=None)


def directories(root: Path, controller: str, own: str | None = None) -> list[Path]:
    """The directories whose limits hold for this process: its own cgroup's and those above it, version 2 or 1.

    `own` is the text of /proc/self/cgroup. In a container the path named there may not be visible: then the root,
    which is the container's own.
    """
    found = []
    for line in (read(Path("/proc/self/cgroup")) if own is None else own).splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            found += _upwards(root, path)
        elif controller in controllers.split(","):
            found += _upwards(root / controller, path)
    return found


def cpu_quota(directory: Path) -> float | None:
    """Cores from cpu.max ("150000 100000") or cpu.cfs_quota_us; None without a limit."""
    words = read(directory / "cpu.max").split() or [
        *read(directory / "cpu.cfs_quota_us").split(), *read(directory / "cpu.cfs_period_us").split()
    ]  # fmt: skip
    if len(words) != 2 or not all(word.isdigit() for word in words) or not int(words[1]):
        return None  # "max 100000", "-1", not there
    return int(words[0]) / int(words[1])


def memory_bound(directory: Path) -> int | None:
    """Bytes from memory.max or memory.limit_in_bytes; None without a limit."""
    text = read(directory / "memory.max").strip() or read(directory / "memory.limit_in_bytes").strip()
    return int(text) if text.isdigit() and int(text) < UNLIMITED else None


def cpu_seconds(root: Path = ROOT) -> float | None:
    """CPU seconds that all processes of this process's container have used; None where no quota is set."""
    for directory in directories(root, "cpu"):
        if cpu_quota(directory) is None:
            continue
        lines = dict(line.split(" ", 1) for line in read(directory / "cpu.stat").splitlines() if " " in line)
        nanoseconds = read(directory / "cpuacct.usage").strip()
        if lines.get("usage_usec", "").isdigit():
            return int(lines["usage_usec"]) / 1e6
        if nanoseconds.isdigit():
            return int(nanoseconds) / 1e9
    return None


def _upwards(root: Path, path: str) -> list[Path]:
    place = root / path.strip("/")
    return [root] if place == root else [p for p in (place, *place.parents) if p == root or root in p.parents]
