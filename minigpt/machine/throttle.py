"""What to do about what a run takes of its machine: pure decisions from limits and readings. `brake` carries them out.

The CPU limit is held by an integral controller: what was used beyond the share is owed as rest, and what rest was too
long or too short is in the next reading. It knows nothing of steps, threads or other programs.
"""

from dataclasses import dataclass, replace
from typing import Literal

from minigpt.machine.limits import CPU_SHARE, Limits
from minigpt.machine.now import CRITICAL, NORMAL, WARNING, Conditions

CREDIT = 2.0  # machine-seconds of unused share that may be caught up with: 3.3 points of a minute
NEAR, TOO_NEAR = 0.90, 0.95  # of the memory ceiling: caches are cleared, then micro-batches get smaller
LONGEST, GRACE = 600.0, 60.0  # seconds: of a pause, and of work before the next one
CLEAR_EVERY = 30.0  # seconds between two clearings under pressure

Action = Literal["go on", "clear caches", "smaller micro-batches", "pause for memory", "pause for heat"]


@dataclass(frozen=True)
class Since:
    """What is kept of earlier decisions; times are seconds of the caller's clock."""

    cleared: float = -CLEAR_EVERY
    resumed: float = -GRACE
    was_near: bool = False  # the memory ceiling, in the reading before


def owed_rest(owed: float, elapsed: float, used: float, share: float) -> float:
    """Seconds of rest that are owed after `elapsed` seconds in which `used` machine-seconds were taken.

    A machine-second is all cores for a second. What was not used beyond CREDIT is forgotten: a run that had to wait,
    for other programs or a pause, does not take the whole machine afterwards.
    """
    return max(owed + used / share - elapsed, -CREDIT / share)


def decide(limits: Limits, resident: int, now: Conditions, time: float, since: Since) -> tuple[Action, Since]:
    """What should happen between two steps, and what the next decision has to know.

    Memory near the ceiling: caches are cleared, and when that did not help, the step gets smaller micro-batches.
    Short memory of the machine: the run pauses. Heat: a quiet run pauses early, a balanced one late, a full one leaves
    it to the machine.
    """
    action: Action = "go on"
    near = limits.memory is not None and resident > NEAR * limits.memory
    rested = time - since.resumed >= GRACE
    if near and since.was_near and resident > TOO_NEAR * limits.memory:
        action = "smaller micro-batches"
    elif now.pressure == CRITICAL and rested:
        action = "pause for memory"
    elif too_hot(limits, now) and rested:
        action = "pause for heat"
    elif near or (now.pressure == WARNING and time - since.cleared >= CLEAR_EVERY):
        action = "clear caches"
    cleared = since.cleared if action == "go on" else time
    return action, replace(since, was_near=near, cleared=cleared)


def pause_ends(limits: Limits, action: Action, now: Conditions, waited: float) -> bool:
    """Whether a pause has lasted long enough: its reason is gone, or it was the longest."""
    gone = now.pressure < CRITICAL if action == "pause for memory" else not too_hot(limits, now)
    return gone or waited >= LONGEST


def too_hot(limits: Limits, now: Conditions) -> bool:
    return now.heat > {"quiet": NORMAL, "balanced": WARNING, "full": CRITICAL}[limits.power]


def with_power_source(limits: Limits, battery: bool) -> Limits:
    """The limits after a change of the power source, for a run whose level follows it."""
    if not limits.follows:
        return limits
    power = "quiet" if battery else "balanced"
    cpu = limits.cpu if limits.cpu_given else CPU_SHARE[power]
    return replace(limits, power=power, cpu=cpu)
