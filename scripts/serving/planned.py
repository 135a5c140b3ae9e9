"""The planner against a load that comes by chance: rates and times are measured in turn, in many short rounds.

A machine's speed changes from minute to minute where others use it, too, and times at 70 % of the highest rate change
several times as much. So each round plans for itself, with rates of the seconds before and after its loads, and what
was planned and what was found are added up over the rounds.
"""

import asyncio
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from minigpt.evaluate.intervals import Figure, bootstrap
from minigpt.serve import measuring
from minigpt.serve.measuring import Answered, Typical
from minigpt.serve.planning import Replica, replica, steady
from serving import simulated

SHARES = (0.3, 0.5, 0.7)  # of the highest rate
LONGER = 4  # times as long as a measurement of rates is one of a load
STILL = 0.1  # a round counts if the rates before and after it differ by less
SETTLED = 0.1  # of a load's time, which is not counted: it begins without a request
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
    """What the plan was off by, over all `rounds`; a disturbed round is repeated, up to `rounds` times in all."""
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
    seen = [_seen(share, load, one, what, found, seconds)
            for share, load, found in zip(SHARES, loads, tried, strict=True)]  # fmt: skip
    print(f"    whole answers: {', '.join(f'{one.share:.0%} busy {one.off:+.0%}' for one in seen)}", flush=True)
    return seen, moved


def _seen(share: float, load: float, one: Replica, what: Typical, found: list[Answered], seconds: float) -> Seen:
    expected = steady(load, one, 1.0)
    if expected is None:
        raise RuntimeError("the machine became too slow for the load")
    works = [answered.tokens / what.mean for answered in found]
    replayed = [whole for _, whole in simulated.times([a.asked for a in found], works, one)]
    counted = [n for n, answered in enumerate(found) if answered.asked >= found[0].asked + SETTLED * LONGER * seconds]
    return Seen(
        share, len(counted), (expected.first, statistics.mean(found[n].first for n in counted)),
        (expected.answer, statistics.mean(found[n].whole for n in counted)),
        statistics.mean(replayed[n] for n in counted),
    )  # fmt: skip


def _judged(runs: list[Seen]) -> list[str]:
    """What is wrong with one load, from all its rounds."""
    share, count = runs[0].share, sum(one.count for one in runs)
    off = {
        "the whole answer": _off([(one.count, *one.answer) for one in runs]),
        "the first token": _off([(one.count, *one.first) for one in runs]),
    }
    replayed = _off([(one.count, one.replayed, one.answer[1]) for one in runs])
    said = ", ".join(f"{name} {_said(figure)}" for name, figure in off.items())
    print(f"  {share:.0%} busy, {count} answers beside their plan: {said}, these arrivals replayed {_said(replayed)}")
    wrong = {name: figure for name, figure in off.items() if abs(figure.value - 1) > OFF}
    return [f"at {share:.0%} {name} is off by {_said(figure)}" for name, figure in wrong.items()]


def _off(rounds: list[tuple[int, float, float]]) -> Figure:
    """Found divided by planned, both summed over rounds of (answers, planned, found), with a bootstrap interval."""
    return bootstrap(np.array([(count * found, count * planned) for count, planned, found in rounds]))


def _said(off: Figure) -> str:
    return f"{off.value - 1:+.0%} ({off.low - 1:+.0%} to {off.high - 1:+.0%})"
