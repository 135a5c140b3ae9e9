"""What the tools of macOS print, read: sysctl, sw_vers, vm_stat, pmset, notifyutil, ioreg. Pure functions of text.

A field that is missing or unreadable is None or "": the tools differ between versions of macOS.
"""

import re

from minigpt.machine.tools import whole

SYSCTL = (
    "sysctl", "hw.memsize", "machdep.cpu.brand_string", "hw.model", "hw.physicalcpu", "hw.logicalcpu",
    "hw.perflevel0.physicalcpu", "hw.perflevel1.physicalcpu", "hw.optional.arm64", "sysctl.proc_translated",
    "kern.memorystatus_vm_pressure_level", "iogpu.wired_limit_mb",
)  # fmt: skip
SW_VERS = ("sw_vers",)
VM_STAT = ("vm_stat",)
BATTERY = ("pmset", "-g", "batt")
POWER_SETTINGS = ("pmset", "-g")
THERMAL = ("notifyutil", "-g", "com.apple.system.thermalpressurelevel")
GPU = ("ioreg", "-rc", "AGXAccelerator", "-d", "1")

THERMAL_LEVELS = ("nominal", "moderate", "heavy", "trapping", "sleeping")  # OSThermalPressureLevel on macOS


def values(text: str) -> dict[str, str]:
    """`name: value` per line, as sysctl and sw_vers print them."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def available_memory(text: str) -> int | None:
    """Bytes that programs may still get, from vm_stat: free, inactive and speculative pages."""
    size = re.search(r"page size of (\d+) bytes", text)
    pages = {name: whole(count.rstrip(".")) for name, count in values(text).items()}
    counted = [pages.get(f"Pages {kind}") for kind in ("free", "inactive", "speculative")]
    if size is None or counted[0] is None or counted[1] is None:
        return None
    return int(size[1]) * sum(count or 0 for count in counted)


def power_source(text: str) -> tuple[str, int | None]:
    """("mains" | "battery" | "", percent of the battery or None) from pmset -g batt; a Mac mini has no percent."""
    source = re.search(r"Now drawing from '(AC|Battery|UPS) Power'", text)
    percent = re.search(r"InternalBattery.*?(\d{1,3})%", text)
    name = {"AC": "mains", "Battery": "battery", "UPS": "battery"}[source[1]] if source else ""
    return name, int(percent[1]) if percent else None


def low_power_mode(text: str) -> bool | None:
    """Whether pmset -g tells of Low Power Mode."""
    found = re.search(r"^\s*lowpowermode\s+(\d)", text, re.MULTILINE) or re.search(
        r"^\s*powermode\s+(\d)", text, re.MULTILINE
    )
    return None if found is None else found[1] == "1"


def thermal_state(text: str) -> str:
    """The name of the thermal pressure level from notifyutil; "" when it says none."""
    level = whole(text.split()[-1]) if text.split() else None
    return THERMAL_LEVELS[level] if level is not None and level < len(THERMAL_LEVELS) else ""


def gpu(text: str) -> tuple[str, int | None]:
    """(name, cores) of an Apple GPU from ioreg."""
    name = re.search(r'"model"\s*=\s*"([^"]+)"', text)
    cores = re.search(r'"gpu-core-count"\s*=\s*(\d+)', text)
    return name[1] if name else "", int(cores[1]) if cores else None


def gpu_budget(memory: int, wired_limit_mb: int | None) -> int:
    """Bytes of unified memory that the GPU may use: as set, else macOS's default of about 2/3, or 3/4 above 36 GB."""
    if wired_limit_mb:
        return wired_limit_mb << 20
    return memory * 3 // 4 if memory > 36 << 30 else memory * 2 // 3
