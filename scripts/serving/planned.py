"""The planner against a load that comes by chance: rates and times are measured in turn, several times over."""

import asyncio
import os
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from minigpt.serve import measuring
from minigpt.serve.measuring import Answered, Typical
from minigpt.serve.planning import Replica, replica, steady
from serving import simulated

SHARES = (0.3, 0.5, 0.7)  # of the highest rate
LONGER = 6  # times as long as a measurement of rates is one of a load
STILL = 0.1  # a round counts if the rates before and after it differ by less
OFF = 0.2  # what a plan may be off by
PROMPT = 16


@dataclass(frozen=True)
class Seen:
    """A load that was tried, and what was planned for it: on average, and for these very requests."""

    share: float
    count: int
    first: tuple[float, float]  # seconds to the first token: planned, found
    answer: tuple[float, float]  # to the end
    replayed: float  # to the end, if the planned replica had had these arrivals and lengths

    @property
    def off(self) -> float:
        """How much longer than planned answers took, as a share."""
        return self.answer[1] / self.answer[0] - 1


@contextmanager
def cores_apart() -> Iterator[Callable[[], None]]:
    """What is started within has all cores but the last one; what it yields moves this process there, the clients."""
    everything = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if len(everything) < 2:
        print("  Clients and server share the cores, in all measurements alike.", flush=True)
        yield lambda: None
        return
    last = max(everything)
    os.sched_setaffinity(0, everything - {last})
    print(f"  The server has {len(everything) - 1} of {len(everything)} cores, its clients the last one.", flush=True)
    try:
        yield lambda: os.sched_setaffinity(0, {last})
    finally:
        os.sched_setaffinity(0, everything)


def wrong(url: str, model: str, rows: int, most: int, tokens: int, seconds: float, rounds: int) -> list[str]:
    """What the plan was off by, of the median of `rounds`; a disturbed round is repeated, up to `rounds` times."""
    what, kept = measuring.typical(url, model, PROMPT, tokens), list[list[Seen]]()
    print(f"  answers of {what.mean:.1f} tokens on average, prompts of {what.prompt}, {rows} rows", flush=True)
    for number in range(1, 2 * rounds + 1):
        try:
            found, moved = asyncio.run(one_round(what, rows, most, seconds, number))
        except (RuntimeError, OSError) as error:
            print(f"  round {number}: not counted, {str(error)[:80]}", flush=True)
            continue
        if abs(moved) > STILL:
            print(f"  round {number}: not counted, the machine's rate has moved by {moved:+.0%}", flush=True)
        else:
            kept.append(found)
        if len(kept) == rounds:
            break
    if len(kept) < rounds:
        return [f"only {len(kept)} of {rounds} rounds were quiet: run it where nothing else runs"]
    return [line for runs in zip(*kept, strict=True) for line in _judged(list(runs))]


async def one_round(what: Typical, rows: int, most: int, seconds: float, number: int) -> tuple[list[Seen], float]:
    """The loads tried, each with its plan, and by what share the rates after them differ from those before.

    Plans are made of both, so that a machine that becomes slower evenly is not the plan's fault.
    """
    before = await measuring.rates(what, rows, most, seconds, number)
    highest = replica(before, rows).most
    loads = [share * highest for share in SHARES]
    tried = [await measuring.by_chance(what, load, LONGER * seconds, 10 * number + i) for i, load in enumerate(loads)]
    after = await measuring.rates(what, rows, most, seconds, number + 1000)
    both = {n: measuring.Measured(*(statistics.mean(pair) for pair in (
        (before[n].rate, after[n].rate), (before[n].first, after[n].first)))) for n in before}  # fmt: skip
    one, moved = replica(both, rows), statistics.mean(after[n].rate / before[n].rate for n in before) - 1
    print(f"  round {number}: {', '.join(f'{n} at work {m.rate:.2f}/s' for n, m in both.items())}", flush=True)
    return [_seen(share, load, one, what, found)
            for share, load, found in zip(SHARES, loads, tried, strict=True)], moved  # fmt: skip


def _seen(share: float, load: float, one: Replica, what: Typical, found: list[Answered]) -> Seen:
    expected = steady(load, one, 1.0)
    if expected is None:
        raise RuntimeError("the machine became too slow for the load")
    works = [answered.tokens / what.mean for answered in found]
    replayed = statistics.mean(whole for _, whole in simulated.times([a.asked for a in found], works, one))
    seen = Seen(
        share, len(found), (expected.first, statistics.mean(a.first for a in found)),
        (expected.answer, statistics.mean(a.whole for a in found)), replayed,
    )  # fmt: skip
    chance = spread(load, one, len(found))
    print(
        f"    {share:.0%} busy, {len(found)} answers: first token {seen.first[1]:.3f} s, planned {seen.first[0]:.3f}; "
        f"end {seen.answer[1]:.3f} s, planned {seen.answer[0]:.3f} ({seen.off:+.0%}; chance alone ±{chance:.0%}), "
        f"{replayed:.3f} for these arrivals ({seen.answer[1] / replayed - 1:+.0%})", flush=True,
    )  # fmt: skip
    return seen


def spread(load: float, one: Replica, count: int, times: int = 60) -> float:
    """How far the mean of so many answers is from the plan in 9 of 10 simulated loads, as a share."""
    chance, expected, off = random.Random(count), steady(load, one, 1.0), []
    for _ in range(times):
        arrivals, now = [], 0.0
        for _ in range(count):
            arrivals.append(now := now + chance.expovariate(load))
        found = simulated.times(arrivals, [chance.expovariate(1.0) for _ in range(count)], one)
        off.append(abs(statistics.mean(whole for _, whole in found) / expected.answer - 1))
    return statistics.quantiles(off, n=10)[-1]


def _judged(runs: list[Seen]) -> list[str]:
    """What is wrong with one load, from the medians of its rounds."""
    off = statistics.median(one.off for one in runs)
    first = statistics.median(one.first[1] / one.first[0] - 1 for one in runs)
    replayed = statistics.median(one.answer[1] / one.replayed - 1 for one in runs)
    print(f"  {runs[0].share:.0%} busy, median of {len(runs)}: the whole answer {off:+.0%} of what was planned, its "
          f"first token {first:+.0%}, these arrivals replayed {replayed:+.0%}")  # fmt: skip
    said = {"the whole answer": off, "the first token": first}
    return [f"at {runs[0].share:.0%} {name} is off by {by:+.0%}" for name, by in said.items() if abs(by) > OFF]
