"""What Linux and NVIDIA's tool tell, read: /proc, /etc/os-release, /sys/class/power_supply, nvidia-smi.

Pure functions of text.
"""

import re

from minigpt.machine.tools import whole

NVIDIA = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
ARM_CORES = {"0xd0c": "Neoverse N1", "0xd40": "Neoverse V1", "0xd4f": "Neoverse V2", "0xd0b": "Cortex-A76"}


def processor(cpuinfo: str) -> str:
    """The processor's name from /proc/cpuinfo; ARM cores have a number instead, boards a `Model`."""
    named = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if named:
        return named[1].strip()
    part = re.search(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    return "" if part is None else ARM_CORES.get(part[1], f"ARM core {part[1]}")


def physical_cores(cpuinfo: str) -> int | None:
    """Cores without hyper-threads: the different pairs of (physical id, core id)."""
    blocks = [dict(re.findall(r"^(physical id|core id)\s*:\s*(\d+)", b, re.MULTILINE)) for b in cpuinfo.split("\n\n")]
    return len({tuple(sorted(block.items())) for block in blocks if len(block) == 2}) or None


def memory(meminfo: str) -> tuple[int | None, int | None]:
    """(all, available) bytes from /proc/meminfo."""
    sizes = sizes_of(meminfo)
    return sizes.get("MemTotal"), sizes.get("MemAvailable", sizes.get("MemFree"))


def sizes_of(text: str) -> dict[str, int]:
    """name -> bytes from the lines in kB of /proc/meminfo and /proc/PID/status."""
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def distribution(os_release: str) -> str:
    """PRETTY_NAME of /etc/os-release."""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)"?', os_release, re.MULTILINE)
    return found[1] if found else ""


def nvidia(text: str) -> tuple[str, int | None]:
    """(name, bytes) of the first GPU that nvidia-smi lists; "" and None when it lists none.

    A driver that fails prints a sentence on stdout instead of the list.
    """
    name, _, size = (text.strip().splitlines() or [""])[0].rpartition(",")
    megabytes = whole(size)
    return ("", None) if megabytes is None else (name.strip(), megabytes << 20)


def power_source(supplies: dict[str, dict[str, str]]) -> tuple[str, int | None]:
    """("mains" | "battery" | "", percent) from name -> {type, online, status, capacity} of /sys/class/power_supply.

    A mouse's battery (scope Device) is none of the machine's.
    """
    batteries = [s for s in supplies.values() if s.get("type") == "Battery" and s.get("scope") != "Device"]
    percent = whole(batteries[0].get("capacity")) if batteries else None
    online = [s.get("online") for s in supplies.values() if s.get("type") in ("Mains", "USB")]
    if "1" in online:
        return "mains", percent
    if any(battery.get("status") == "Discharging" for battery in batteries):
        return "battery", percent
    return ("mains" if batteries else ""), percent
