"""What a run may take of the machine: the limits that the flags --power, --max-cpu and --max-memory mean."""

from dataclasses import dataclass
from typing import Literal

from minigpt.errors import check_name
from minigpt.units import gigabytes, parse_memory, parse_share

Power = Literal["quiet", "balanced", "full"]
POWERS: tuple[Power, ...] = ("quiet", "balanced", "full")
CPU_SHARE = {"quiet": 0.5, "balanced": None, "full": None}  # of all cores; None: whatever is free
NICE = {"quiet": 10, "balanced": 10, "full": 0}  # others who want a core get it first


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
