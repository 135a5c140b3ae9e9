"""What this machine is and how it is just now, from texts that its system gives. Every field may be unknown."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from minigpt.machine import cgroups, linux, mac, readings, tools
from minigpt.machine.tools import Read, Run, power_supplies, whole

Memory = Callable[[], tuple[int, int] | None]  # (all, available) bytes
Battery = Callable[[], tuple[str, int] | None]  # (power source, percent)


@dataclass(frozen=True)
class Machine:
    """Sizes are bytes; None and "" mean that the system did not say."""

    system: str = ""  # macOS, Linux, …
    version: str = ""
    chip: str = ""
    architecture: str = ""  # of the processor: arm64, x86_64
    python_architecture: str = ""  # x86_64 on an Apple chip means Rosetta
    cores: int | None = None
    performance_cores: int | None = None
    efficiency_cores: int | None = None
    usable_cores: float = 1.0  # what a container leaves of them
    memory: int | None = None
    memory_limit: int | None = None  # a container's
    memory_available: int | None = None
    gpu: str = ""
    gpu_cores: int | None = None
    gpu_memory: int | None = None  # of its own, or what it may use of unified memory
    unified: bool = False
    disk_free: int | None = None
    power: str = ""  # mains, battery
    battery_percent: int | None = None
    low_power: bool | None = None
    thermal: str = ""  # nominal, moderate, heavy, trapping, sleeping

    @property
    def usable_memory(self) -> int | None:
        """All memory that this process could ever have."""
        return min((m for m in (self.memory, self.memory_limit) if m is not None), default=None)

    @property
    def apple(self) -> bool:
        """Whether this is a Mac with an Apple chip."""
        return self.system == "macOS" and self.architecture == "arm64"


def describe(
    place: Path = Path(), system: str = sys.platform, python: str = platform.machine(), run: Run = tools.run,
    read: Read = tools.read, groups: Path = cgroups.ROOT, memory: Memory = readings.memory,
    battery: Battery = readings.battery,
) -> Machine:  # fmt: skip
    """This machine; `place` is where runs will be written, `python` what this Python was built for.

    `memory` and `battery` are asked before the tools, which `run` starts. The other arguments let tests bring
    recorded texts.
    """
    machine = {"darwin": _mac, "linux": _linux}.get(system, _other)(python, run, read, groups)
    if (sizes := memory()) is not None:
        left = min(size for size in (sizes[1], machine.memory_limit) if size is not None)
        machine = replace(machine, memory=sizes[0], memory_available=left)
    if (source := battery()) is not None:
        machine = replace(machine, power=source[0], battery_percent=source[1])
    return replace(machine, disk_free=_disk_free(place))


def _mac(python: str, run: Run, read: Read, groups: Path) -> Machine:
    known = mac.values(run(mac.SYSCTL))
    chip = known.get("machdep.cpu.brand_string", "")  # "VirtualApple" in a translated process
    arm = known.get("hw.optional.arm64") == "1" or "Apple" in chip or python == "arm64"
    memory, cores = whole(known.get("hw.memsize")), whole(known.get("hw.physicalcpu"))
    gpu, gpu_cores = mac.gpu(run(mac.GPU)) if arm else ("", None)
    power, percent = mac.power_source(run(mac.BATTERY))
    return Machine(
        "macOS", mac.values(run(mac.SW_VERS)).get("ProductVersion", ""), chip, "arm64" if arm else "x86_64", python,
        cores, whole(known.get("hw.perflevel0.physicalcpu")), whole(known.get("hw.perflevel1.physicalcpu")),
        float(cores or os.cpu_count() or 1), memory, None, mac.available_memory(run(mac.VM_STAT)), gpu, gpu_cores,
        mac.gpu_budget(memory, whole(known.get("iogpu.wired_limit_mb"))) if arm and memory else None, arm, None,
        power, percent, mac.low_power_mode(run(mac.POWER_SETTINGS)), mac.thermal_state(run(mac.THERMAL)),
    )  # fmt: skip


def _linux(python: str, run: Run, read: Read, groups: Path) -> Machine:
    cpuinfo = read("/proc/cpuinfo")
    memory, available = linux.memory(read("/proc/meminfo"))
    gpu, gpu_memory = linux.nvidia(run(linux.NVIDIA))
    limit = cgroups.memory_limit(groups)
    power, percent = linux.power_source(power_supplies())
    return Machine(
        "Linux", linux.distribution(read("/etc/os-release")), linux.processor(cpuinfo), python, python,
        linux.physical_cores(cpuinfo) or os.cpu_count(), None, None, cgroups.usable_cores(groups), memory, limit,
        min((m for m in (available, limit) if m is not None), default=None), gpu, None, gpu_memory,
        power=power, battery_percent=percent,
    )  # fmt: skip


def _other(python: str, run: Run, read: Read, groups: Path) -> Machine:
    cores = os.cpu_count()
    return Machine(platform.system(), platform.release(), platform.processor(), python, python, cores,
                   usable_cores=float(cores or 1))  # fmt: skip


def _disk_free(place: Path) -> int | None:
    existing = next((path for path in (place.absolute(), *place.absolute().parents) if path.exists()), None)
    try:
        return None if existing is None else shutil.disk_usage(existing).free
    except OSError:
        return None
