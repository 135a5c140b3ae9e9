"""What processes use: the CPU seconds and resident memory of this process and those that belong to it."""

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from minigpt.machine import readings
from minigpt.machine.readings import Process
from minigpt.machine.tools import run

PROC = Path("/proc")
PEAK_AGAIN = PROC / "self" / "clear_refs"  # Linux: writing 5 lets the high-water mark begin again


def family(root: int) -> dict[int, Process]:
    """`root` and all processes that descend from it, by their ids; empty where nothing can be read."""
    found = readings.family(root)
    if found is None:
        table = processes()
        found = {pid: table[pid] for pid in tree(table, root)}
    return found


def processes(proc: Path = PROC) -> dict[int, Process]:
    """Every process that can be seen, by its id; empty where nothing can be read."""
    if hasattr(os, "sysconf") and (proc / "self" / "stat").exists():
        found = ((int(path.name), _from_stat(path)) for path in proc.iterdir() if path.name.isdigit())
        return {pid: process for pid, process in found if process is not None}
    return parse_ps(run(["ps", "-axo", "pid=,ppid=,rss=,time="]))


def tree(table: dict[int, Process], root: int) -> list[int]:
    """`root` and all that descend from it."""
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    found = [root] if root in table else []
    for pid in found:
        found += [child for child in children.get(pid, []) if child not in found]
    return found


def total(table: dict[int, Process], pids: Iterable[int]) -> tuple[float, int]:
    """(CPU seconds, resident bytes) of some processes together."""
    members = [table[pid] for pid in pids if pid in table]
    return sum(p.cpu for p in members), sum(p.resident for p in members)


def parse_stat(text: str, ticks: int, page: int) -> Process | None:
    """A line of /proc/PID/stat (proc(5)); the name in it may hold anything, also spaces and brackets."""
    fields = text[text.rfind(")") + 2 :].split()
    if len(fields) < 22:
        return None
    return Process(int(fields[1]), sum(map(int, fields[11:15])) / ticks, int(fields[21]) * page)


def parse_ps(text: str) -> dict[int, Process]:
    """The lines of `ps -o pid=,ppid=,rss=,time=` of macOS (12:34.56) or Linux (1-02:03:04)."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(?:(\d+)-)?([\d:]+(?:\.\d+)?)\s*", line)
        if match:
            pid, parent, kilobytes = map(int, match.groups()[:3])
            seconds = 86400.0 * int(match[4] or 0)
            for place, part in enumerate(reversed(match[5].split(":"))):
                seconds += float(part) * 60**place
            found[pid] = Process(parent, seconds, kilobytes * 1024)
    return found


def set_niceness(level: int) -> None:
    """Let other processes go first: every thread of this one (on Linux each has its own) gets at least `level`.

    Where Linux groups processes by session (autogroup, on desktops) it counts within this session only.
    """
    tasks = PROC / "self" / "task"
    if not hasattr(os, "getpriority") or not tasks.is_dir():
        readings.be_nice(level)
        return
    for thread in [int(path.name) for path in tasks.iterdir()]:
        try:
            if os.getpriority(os.PRIO_PROCESS, thread) < level:
                os.setpriority(os.PRIO_PROCESS, thread, level)
        except OSError:
            continue  # it has ended


def resident() -> int:
    """The resident memory of this process just now, in bytes; where the system does not tell, the high-water mark."""
    found = readings.resident()
    if found is not None:
        return found
    try:
        return int((PROC / "self" / "statm").read_text().split()[1]) * _page()
    except (OSError, AttributeError, IndexError, ValueError):
        return max_resident()


def max_resident() -> int:
    """The high-water mark of this process's resident memory, in bytes; 0 where no system call tells it."""
    try:
        lines = (PROC / "self" / "status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass  # not Linux, or not all of it
    try:
        import resource
    except ImportError:  # Windows
        return readings.peak_resident() or readings.resident() or 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # bytes on macOS, kilobytes elsewhere


def restart_peak() -> None:
    """Let the high-water mark begin again, where the system can; else it counts what the process did before, too."""
    with contextlib.suppress(OSError):
        PEAK_AGAIN.write_text("5")


def _from_stat(path: Path) -> Process | None:
    try:
        return parse_stat((path / "stat").read_text("utf-8", "replace"), os.sysconf("SC_CLK_TCK"), _page())
    except (OSError, ValueError):  # it has ended
        return None


def _page() -> int:
    return os.sysconf("SC_PAGE_SIZE")
