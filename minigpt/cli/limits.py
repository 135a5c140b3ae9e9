"""From the flags --power, --max-cpu and --max-memory to a brake that holds a run to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minigpt.cli.flags import Share
from minigpt.errors import ResourceError
from minigpt.machine.limits import Limits, limits_of
from minigpt.units import gigabytes

if TYPE_CHECKING:
    from minigpt.machine.brake import Brake
    from minigpt.train.stop import Stop

LEAST = 100_000_000  # bytes beside Python and the framework without which no training begins


def limits_from(taking: Share) -> Limits:
    """The limits that the flags mean on this machine. Raises UsageError for a value that is none."""
    from minigpt.machine.now import memory_total, on_battery

    resting = taking.power is None and on_battery()
    return limits_of(taking.power, taking.max_cpu, taking.max_memory, resting, memory_total())


@contextmanager
def braked(limits: Limits, backend: Any, stop: "Stop", root: int) -> Iterator["Brake"]:
    """A brake for the processes below `root`; what is limited is said once.

    Raises ResourceError when the memory limit is used up before training begins.
    """
    from minigpt.cli import console
    from minigpt.machine import ceiling
    from minigpt.machine.brake import Brake, Surroundings

    brake = Brake(limits, backend, stop, Surroundings(root=root))
    room = brake.apply()
    try:
        if room is not None and room < LEAST:
            needed = gigabytes(limits.memory - room + LEAST)
            raise ResourceError(
                f"--max-memory allows {gigabytes(limits.memory)}, and Python and {backend.name} alone need {needed}.",
                f"Give at least {needed}, and what `minigpt plan` shows for the model.",
            )
        if sentence := said(limits):
            console.note(sentence)
        yield brake
    finally:
        ceiling.release()


def said(limits: Limits) -> str:
    """What is limited, and how to lift it; "" when nothing is."""
    parts = [f"at most {limits.cpu:.0%} of the CPU"] if limits.cpu is not None else []
    parts += [f"at most {gigabytes(limits.memory)} of memory"] if limits.memory is not None else []
    follows = limits.follows and limits.power == "quiet"
    why = ", since this machine runs on its battery (--power full lifts it)" if follows else ""
    return f"Limits: {' and '.join(parts)}{why}." if parts else ""
