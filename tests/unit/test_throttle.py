"""Decisions about CPU, memory and heat, on readings that were recorded or made up, and the CPU limit in simulation."""

import math
import random

import pytest

from minigpt.machine.limits import Limits
from minigpt.machine.now import CRITICAL, NORMAL, WARNING, Conditions
from minigpt.machine.throttle import CREDIT, GRACE, LONGEST, Since, decide, owed_rest, pause_ends, with_power_source

GB = 10**9
QUIET, BALANCED, FULL = (Limits(power) for power in ("quiet", "balanced", "full"))
FOUR = Limits("full", None, 4 * GB)
FINE, SHORT, TIGHT = Conditions(), Conditions(pressure=CRITICAL), Conditions(pressure=WARNING)
WARM, HOT = Conditions(heat=WARNING), Conditions(heat=CRITICAL)

TABLE = [  # limits, resident, conditions, seconds since the last pause, near the ceiling before, action
    (FULL, 9 * GB, FINE, 1e6, False, "go on"),
    (FOUR, int(3.59 * GB), FINE, 1e6, False, "go on"),
    (FOUR, int(3.61 * GB), FINE, 1e6, False, "clear caches"),
    (FOUR, int(3.99 * GB), FINE, 1e6, False, "clear caches"),  # clearing comes first, however near
    (FOUR, int(3.75 * GB), FINE, 1e6, True, "clear caches"),  # it helped
    (FOUR, int(3.81 * GB), FINE, 1e6, True, "smaller micro-batches"),  # it did not
    (FOUR, int(3.81 * GB), SHORT, 1e6, True, "smaller micro-batches"),
    (FULL, 1 * GB, SHORT, 1e6, False, "pause for memory"),
    (BALANCED, 1 * GB, SHORT, GRACE - 1, False, "go on"),  # some work between two pauses
    (BALANCED, 1 * GB, SHORT, GRACE, False, "pause for memory"),
    (FULL, 1 * GB, TIGHT, 1e6, False, "clear caches"),
    (QUIET, 1 * GB, WARM, 1e6, False, "pause for heat"),
    (BALANCED, 1 * GB, WARM, 1e6, False, "go on"),
    (BALANCED, 1 * GB, HOT, 1e6, False, "pause for heat"),
    (BALANCED, 1 * GB, HOT, 5, False, "go on"),
    (FULL, 1 * GB, HOT, 1e6, False, "go on"),  # the machine protects itself
    (QUIET, 1 * GB, Conditions(CRITICAL, CRITICAL), 1e6, False, "pause for memory"),
]


@pytest.mark.parametrize(("limits", "resident", "now", "since", "near", "action"), TABLE)
def test_decisions(limits, resident, now, since, near, action):
    found, watch = decide(limits, resident, now, 1e7, Since(resumed=1e7 - since, was_near=near))
    assert found == action
    assert watch.was_near == (limits.memory is not None and resident > 0.9 * limits.memory)


def test_under_pressure_caches_are_cleared_now_and_then():
    watch, actions = Since(), []
    for second in range(0, 100, 10):
        action, watch = decide(FULL, GB, TIGHT, float(second), watch)
        actions.append(action == "clear caches")
    assert actions == [True, False, False] * 3 + [True]


@pytest.mark.parametrize(
    ("limits", "action", "now", "waited", "ends"),
    [
        (FULL, "pause for memory", SHORT, 30, False),
        (FULL, "pause for memory", TIGHT, 30, True),
        (FULL, "pause for memory", SHORT, LONGEST, True),  # going on may end badly, but a checkpoint is there
        (QUIET, "pause for heat", WARM, 30, False),
        (QUIET, "pause for heat", FINE, 30, True),
        (BALANCED, "pause for heat", HOT, 30, False),
        (BALANCED, "pause for heat", WARM, 30, True),
        (BALANCED, "pause for heat", HOT, LONGEST, True),
    ],
)
def test_ends_of_pauses(limits, action, now, waited, ends):
    assert pause_ends(limits, action, now, waited) == ends


@pytest.mark.parametrize(
    ("limits", "battery", "power", "cpu"),
    [
        (Limits("balanced", follows=True), True, "quiet", 0.5),
        (Limits("quiet", 0.5, follows=True), False, "balanced", None),
        (Limits("balanced", 0.8, follows=True, cpu_given=True), True, "quiet", 0.8),
        (Limits("full"), True, "full", None),
        (Limits("quiet", 0.5), False, "quiet", 0.5),
    ],
)
def test_a_level_that_was_not_given_follows_the_power_source(limits, battery, power, cpu):
    found = with_power_source(limits, battery)
    assert (found.power, found.cpu, found.memory) == (power, cpu, limits.memory)


# ---- the CPU limit: a machine in simulation


def held(share, cores, work, threads=None, available=lambda t: 1.0, seconds=60.0, oversleep=0.0, rest=owed_rest):
    """The share of the machine used in the worst of several minutes in a row.

    `work()` is the next part's CPU seconds, which `threads` threads share; `available(t)` the part of the machine that
    other programs leave; a sleep lasts `oversleep` seconds longer than asked.
    """
    clock = used = owed = 0.0
    points = [(0.0, 0.0)]
    while clock < 4 * seconds:
        cpu = work()
        speed = min(threads or cores, cores * available(clock))
        elapsed = cpu / speed
        clock, used = clock + elapsed, used + cpu
        owed = rest(owed, elapsed, cpu / cores, share)
        if owed > 0:
            nap = owed + oversleep
            clock += nap
            owed = rest(owed, nap, 0.0, share)
        points.append((clock, used))
    minutes = []
    for start in range(3):
        inside = [p for p in points if start * seconds <= p[0] <= (start + 1) * seconds]
        minutes.append((inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0]) / cores)
    return minutes


RNG = random.Random(1)
WORKS = {
    "short parts": lambda: 0.02,
    "long parts": lambda: 3.0,
    "of any length": lambda: 10 ** RNG.uniform(-3, 0.3),
    "an evaluation now and then": lambda: 4.0 if RNG.random() < 0.02 else 0.1,
}


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("cores", [1, 2, 8])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_the_share_is_held_within_five_points(share, cores, work):
    for oversleep in (0.0, 0.004):
        minutes = held(share, cores, WORKS[work], oversleep=oversleep)
        assert max(abs(m - share) for m in minutes) < 0.05, minutes


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_also_when_other_programs_come_and_go(share):
    def available(t):
        return 0.7 if int(t / 7) % 2 else 1.0

    minutes = held(share, 2, lambda: 0.2, available=available)
    assert max(abs(m - share) for m in minutes) < 0.05, minutes


def test_who_had_to_wait_does_not_take_it_all_afterwards():
    """Two minutes with a tenth of the machine, then all of it: the minute after is as any other."""

    def available(t):
        return 0.1 if t < 60 else 1.0

    def unbounded(owed, elapsed, used, share):
        return owed + used / share - elapsed

    minutes = held(0.5, 2, lambda: 0.2, available=available)
    assert minutes[0] < 0.15 and abs(minutes[1] - 0.5) < 0.05 and abs(minutes[2] - 0.5) < 0.05
    assert held(0.5, 2, lambda: 0.2, available=available, rest=unbounded)[1] > 0.8  # what the bound is for


@pytest.mark.parametrize(
    "wrong",
    [
        lambda owed, elapsed, used, share: elapsed * (1 / share - 1) if used else 0.0,  # a fixed duty cycle
        lambda owed, elapsed, used, share: used / share - elapsed,  # forgets what the last rest was too short
    ],
    ids=["duty cycle", "no memory"],
)
def test_other_controllers_miss(wrong):
    """One thread on two cores, a busy machine, long parts: what does not look at the CPU time fails."""

    def busy(t):
        return 0.5 if int(t / 20) % 2 else 1.0

    gaps = []
    for oversleep, available in ((0.0, lambda t: 1.0), (0.05, lambda t: 1.0), (0.0, busy)):
        minutes = held(0.4, 2, lambda: 0.2, threads=1.2, available=available, oversleep=oversleep, rest=wrong)
        gaps.append(max(abs(m - 0.4) for m in minutes))
    right = held(0.4, 2, lambda: 0.2, threads=1.2, available=busy, oversleep=0.05)
    assert max(gaps) > 0.05 > max(abs(m - 0.4) for m in right)


def test_credit_is_bounded():
    assert owed_rest(0.0, 100.0, 0.0, 0.5) == -2 * CREDIT
    assert owed_rest(-2 * CREDIT, 1.0, 1.0, 0.5) == -2 * CREDIT + 1.0
    assert math.isclose(owed_rest(0.0, 1.0, 1.0, 0.5), 1.0)
    assert Conditions() == Conditions(NORMAL, NORMAL, False)
