"""psutil, wrapped: what it tells of processes, memory, battery and processor time; None where it cannot.

psutil asks every system in its own way and starts no tool for it. These readings stay our own:
- the texts of /proc, `ps`, `vm_stat` and `pmset` as fallback: psutil may be missing, and the memory calls of 7.2.2
  raise on macOS 27;
- what a container's limits leave (`cgroups`): psutil knows the whole machine only;
- memory pressure, heat, Low Power Mode, chips and GPUs (`now`, `mac`, `linux`): psutil has them for some systems only;
- niceness on Linux (`processes`): psutil's call reaches the first thread of a process, and each thread has its own;
- the ceiling of a process's memory and a peak that begins again (`ceiling`, `processes`): Linux's own files.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """`cpu` is in seconds, with those of children that have ended (Linux); `resident` in bytes."""

    parent: int
    cpu: float
    resident: int


def asked(question: Callable[[Any], T]) -> T | None:
    """The answer of `question(psutil)`; None when psutil is not there or raises, whatever that is: others know too."""
    try:
        import psutil

        return question(psutil)
    except Exception:
        return None


def memory() -> tuple[int, int] | None:
    """(all, available) bytes of the machine's memory."""

    def question(psutil: Any) -> tuple[int, int]:
        found = psutil.virtual_memory()
        return found.total, found.available

    return asked(question)


def battery() -> tuple[str, int] | None:
    """("mains" | "battery", percent); None without a battery, or where it cannot be read."""

    def question(psutil: Any) -> tuple[str, int] | None:
        found = psutil.sensors_battery()
        if found is None or found.power_plugged is None:
            return None
        return "mains" if found.power_plugged else "battery", round(found.percent)

    return asked(question)


def family(root: int) -> dict[int, Process] | None:
    """`root` and all processes that descend from it, by their ids."""

    def question(psutil: Any) -> dict[int, Process]:
        first, found = psutil.Process(root), {}
        for one in (first, *first.children(recursive=True)):
            try:
                with one.oneshot():
                    times = one.cpu_times()
                    cpu = times.user + times.system + times.children_user + times.children_system
                    found[one.pid] = Process(one.ppid(), cpu, one.memory_info().rss)
            except psutil.NoSuchProcess:  # it has ended
                continue
        return found

    return asked(question)


def is_there(pid: int) -> bool:
    """Whether a process of that id exists; True where nobody knows."""
    return asked(lambda psutil: psutil.pid_exists(pid)) is not False


def children(root: int) -> list[int]:
    """The ids of all processes that descend from `root`."""
    return asked(lambda psutil: [one.pid for one in psutil.Process(root).children(recursive=True)]) or []


def resident() -> int | None:
    """Bytes of this process that are in memory now."""
    return asked(lambda psutil: psutil.Process().memory_info().rss)


def peak_resident() -> int | None:
    """The most bytes of this process that were in memory; only Windows tells psutil."""
    return asked(lambda psutil: psutil.Process().memory_info().peak_wset)


def be_nice(level: int) -> None:
    """Let other processes go first: on Windows, which has classes, below normal for any `level` above 0."""

    def question(psutil: Any) -> None:
        process, classes = psutil.Process(), getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", None)
        if classes is not None:
            process.nice(classes)
        elif process.nice() < level:
            process.nice(level)

    asked(question)


def processor_seconds() -> float | None:
    """Seconds for which the cores of this machine were busy since it started, all programs and cores together."""

    def question(psutil: Any) -> float:
        times = psutil.cpu_times()._asdict()
        idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is in user and nice as well
        return sum(seconds for name, seconds in times.items() if name not in idle)

    return asked(question)


def cores() -> int | None:
    """The machine's logical cores."""
    return asked(lambda psutil: psutil.cpu_count())


def busiest() -> dict[int, tuple[str, float]] | None:
    """id -> (name, CPU seconds) of the processes that can be seen, without this one and its parent."""

    def question(psutil: Any) -> dict[int, tuple[str, float]]:
        own, found = {os.getpid(), os.getppid()}, {}
        for one in psutil.process_iter(["name", "cpu_times"]):
            times = one.info["cpu_times"]
            if one.pid not in own and times is not None:
                found[one.pid] = (one.info["name"] or "", times.user + times.system)
        return found

    return asked(question)
