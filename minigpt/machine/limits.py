"""What a run may take of the machine: the limits that the flags --power, --max-cpu and --max-memory mean."""

import re
from dataclasses import dataclass
from typing import Literal

from minigpt.errors import UsageError, check_name

Power = Literal["quiet", "balanced", "full"]
POWERS: tuple[Power, ...] = ("quiet", "balanced", "full")
CPU_SHARE = {"quiet": 0.5, "balanced": None, "full": None}  # of all cores; None: whatever is free
NICE = {"quiet": 10, "balanced": 10, "full": 0}  # others who want a core get it first
UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
BINARY = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@dataclass(frozen=True)
class Limits:
    """`cpu` is a share of all cores in (0, 1], `memory` bytes that the processes may have resident; None: no limit.

    `follows`: the level was not given and changes with the power source; `cpu_given`: the share stays all the same.
    """

    power: Power = "full"
    cpu: float | None = None
    memory: int | None = None
    follows: bool = False
    cpu_given: bool = False

    def said(self, resident: int) -> str:
        """What is resident, beside what --max-memory allows."""
        return f"{gigabytes(resident)} of the {gigabytes(self.memory)} that --max-memory allows are in use"

    @property
    def nice(self) -> int:
        return NICE[self.power]


def limits_of(power: str | None, max_cpu: str | None, max_memory: str | None, battery: bool, total: int) -> Limits:
    """The limits that flags mean on a machine with `total` bytes of memory.

    Without --power a machine that runs on its battery is quiet, another one balanced. Raises UsageError for a value
    that is no limit.
    """
    level = power or ("quiet" if battery else "balanced")
    check_name("power level", level, POWERS)
    cpu = CPU_SHARE[level] if max_cpu is None else parse_share(max_cpu, "--max-cpu")
    memory = None if max_memory is None else parse_memory(max_memory, total)
    return Limits(level, cpu if cpu != 1.0 else None, memory, power is None, max_cpu is not None)


def parse_share(text: str, flag: str) -> float:
    """The share in (0, 1] that "60" or "60%" means. Raises UsageError that names `flag`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text.strip())
    if found is None or not 0 < float(found[1]) <= 100:
        raise UsageError(f"{flag} {text!r} is not a share of the machine.", f"Give percent, such as {flag} 60.")
    return float(found[1]) / 100


def parse_memory(text: str, total: int, flag: str = "--max-memory") -> int:
    """The bytes that "4GB", "512MiB" or, in percent of `total`, "70" or "50%" mean.

    GB is 10⁹ bytes and GiB 2³⁰. Raises UsageError that names `flag`, also for more than there is.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        return int(parse_share(text, flag) * total) if not re.search(r"[a-z]", text, re.I) else _no_size(text, flag)
    size = int(float(found[1]) * (BINARY if found[3] else UNITS)[found[2].upper()])
    if not 0 < size <= total:
        raise UsageError(
            f"{flag} {text!r} is not a part of this machine's memory of {gigabytes(total)}.",
            f"Give less, such as {flag} 70%.",
        )
    return size


def parse_time(text: str, flag: str = "--time") -> float:
    """The seconds that "20m", "1h30m", "90s" or, in minutes, "20" mean. Raises UsageError that names `flag`."""
    text, number = text.strip().lower(), r"(\d+(?:\.\d+)?)\s*"
    written = f"{text}m" if re.fullmatch(r"\d+(\.\d+)?", text) else text
    found = re.fullmatch(rf"(?:{number}h)?\s*(?:{number}m(?:in)?)?\s*(?:{number}s)?", written)
    hours, minutes, seconds = ((float(part) if part else 0.0) for part in found.groups()) if found else (0.0,) * 3
    if not 0 < hours * 3600 + minutes * 60 + seconds < 1e9:
        raise UsageError(f"{flag} {text!r} is not a time.", f"Give it such as {flag} 20m or {flag} 1h30m.")
    return hours * 3600 + minutes * 60 + seconds


def gigabytes(size: float) -> str:
    """Bytes as people say them: 412 MB, 3.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _no_size(text: str, flag: str) -> int:
    raise UsageError(f"{flag} {text!r} is not a size.", f"Give percent or a size, such as {flag} 70% or {flag} 4GB.")
