"""How the machine feels now: memory pressure, heat and power source. What cannot be read counts as normal."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from minigpt.machine import linux, mac, readings
from minigpt.machine.cgroups import memory_limit
from minigpt.machine.tools import power_supplies, read, run

NORMAL, WARNING, CRITICAL = 0, 1, 2
SHORT = ((0.03, 20.0), (0.08, 10.0))  # critical, warning: part of memory that is left, percent of time stalled
NEAR_CRITICAL = (5.0, 10.0)  # degrees below the temperature at which the machine turns itself off


@dataclass(frozen=True)
class Conditions:
    """`pressure` (of memory) and `heat` are NORMAL, WARNING or CRITICAL; `battery`: it runs on it."""

    pressure: int = NORMAL
    heat: int = NORMAL
    battery: bool = False


def conditions() -> Conditions:
    """The present conditions of this machine (takes some 20 ms on macOS, where tools are asked)."""
    if sys.platform == "darwin":
        return Conditions(
            mac_pressure(run(["sysctl", "-n", "kern.memorystatus_vm_pressure_level"])),
            mac_heat(run(mac.THERMAL)),
            on_battery(),
        )
    pressure = linux_pressure(read("/proc/meminfo"), read("/proc/pressure/memory"))
    return Conditions(pressure, linux_heat(Path("/sys/class/thermal")), on_battery())


def on_battery() -> bool:
    """Whether the machine runs on its battery."""
    if (told := readings.battery()) is not None:
        return told[0] == "battery"
    if sys.platform == "darwin":
        return mac_battery(run(mac.BATTERY))
    return linux_battery(Path("/sys/class/power_supply"))


def memory_total() -> int:
    """Bytes of memory that this process could have: the machine's, or its container's limit."""
    told = readings.memory()
    machine = told[0] if told is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, memory_limit() or machine)


# ---- macOS: what its tools print


def mac_pressure(text: str) -> int:
    """From `sysctl -n kern.memorystatus_vm_pressure_level`: 1 normal, 2 warning, 4 critical."""
    return {"2": WARNING, "4": CRITICAL}.get(text.strip(), NORMAL)


def mac_heat(text: str) -> int:
    """From `notifyutil -g com.apple.system.thermalpressurelevel`: 0 nominal, 1 moderate, 2 heavy, 3 and 4 worse."""
    level = re.search(r"thermalpressurelevel\s+(\d+)", text)
    return min(int(level[1]), CRITICAL) if level else NORMAL


def mac_battery(text: str) -> bool:
    """From `pmset -g batt`, whose first line names the power source."""
    return "'Battery Power'" in text.partition("\n")[0]


# ---- Linux: what /proc and /sys hold


def linux_pressure(meminfo: str, stalled: str) -> int:
    """From /proc/meminfo and, where the kernel keeps it, /proc/pressure/memory (full avg10, some avg10)."""
    sizes = linux.sizes_of(meminfo)
    left = sizes["MemAvailable"] / sizes["MemTotal"] if {"MemAvailable", "MemTotal"} <= sizes.keys() else 1.0
    lost = {kind: float(share) for kind, share in re.findall(r"^(full|some) avg10=([\d.]+)", stalled, re.MULTILINE)}
    (least, most), (little, much) = SHORT
    if left < least or lost.get("full", 0.0) >= most:
        return CRITICAL
    return WARNING if left < little or lost.get("some", 0.0) >= much else NORMAL


def linux_heat(directory: Path) -> int:
    """The worst of the thermal zones, each compared with its own critical trip point."""
    return max((_zone_heat(zone) for zone in directory.glob("thermal_zone*")), default=NORMAL)


def linux_battery(directory: Path) -> bool:
    """Whether a battery of the machine (not of a mouse) is used and no mains adapter is plugged in."""
    return linux.power_source(power_supplies(directory))[0] == "battery"


def _zone_heat(zone: Path) -> int:
    temperature = _degrees(zone / "temp")
    trips = [_degrees(zone / path.name.replace("_type", "_temp")) for path in zone.glob("trip_point_*_type")
             if read(path).strip() == "critical"]  # fmt: skip
    room = min((trip for trip in trips if trip > 0), default=1000.0) - temperature
    return CRITICAL if room <= NEAR_CRITICAL[0] else WARNING if room <= NEAR_CRITICAL[1] else NORMAL


def _degrees(path: Path) -> float:
    text = read(path).strip()
    return int(text) / 1000 if re.fullmatch(r"-?\d+", text) else 0.0
