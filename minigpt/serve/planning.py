"""How many replicas a load needs: a queue with many servers whose speed was measured (birth and death, Erlang)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Steady:
    """A replica under a steady load. Times in seconds; `busy` is the share of its highest rate that it works at."""

    busy: float
    wait: float  # on average, before an answer begins
    answer: float  # on average, waiting included
    late: float  # the share of requests that wait longer than the time that was asked about


def steady(load: float, rates: Sequence[float], within: float) -> Steady | None:
    """What a replica does under `load` requests a second that come by chance; None where it cannot keep up.

    `rates[n - 1]` is how many answers a second it finishes while it works at n, the last one for any more that wait:
    a birth–death chain (Kleinrock 1975, chapter 3), of which M/M/c is the case rates = (μ, 2μ, …, cμ). What waits
    leaves the queue at the highest rate, so that the wait of who has to wait is exponential.
    """
    most, rows = rates[-1], len(rates)
    if load >= most:
        return None
    weights = [1.0]  # of n requests there, n = 0 … rows
    for rate in rates:
        weights.append(weights[-1] * load / rate)
    ratio = load / most
    full = weights[-1] / (1 - ratio)  # all states with at least `rows`
    total = sum(weights[:-1]) + full
    waiting = weights[-1] * ratio / (1 - ratio) ** 2 / total  # mean length of the queue
    running = (sum(n * weight for n, weight in enumerate(weights[:-1])) + rows * full) / total
    late = full / total * math.exp(-(most - load) * within)
    return Steady(ratio, waiting / load, (waiting + running) / load, late)


def replicas(load: float, rates: Sequence[float], within: float, late: float = 0.01) -> tuple[int, Steady]:
    """The fewest replicas that share `load` so that no more than `late` of it waits longer than `within` seconds."""
    few = max(1, math.floor(load / rates[-1]))
    many = few
    while not _enough(load / many, rates, within, late):
        few, many = many + 1, many * 2
    while few < many:  # between a number that may be too small and one that is enough
        middle = (few + many) // 2
        few, many = (few, middle) if _enough(load / middle, rates, within, late) else (middle + 1, many)
    found = steady(load / many, rates, within)
    assert found is not None, (load, many)
    return many, found


def _enough(load: float, rates: Sequence[float], within: float, late: float) -> bool:
    found = steady(load, rates, within)
    return found is not None and found.late <= late


def between(measured: dict[int, float], rows: int) -> list[float]:
    """Rates for 1 … rows from those that were measured at some numbers: straight lines between them.

    A rate never falls with more at work: what a measurement shows to the contrary is noise.
    """
    known = sorted(measured)
    rates: list[float] = []
    for n in range(1, rows + 1):
        low = max((one for one in known if one <= n), default=known[0])
        high = min((one for one in known if one >= n), default=known[-1])
        part = 0.0 if high == low else (n - low) / (high - low)
        rate = measured[low] + part * (measured[high] - measured[low])
        rates.append(max(rate, rates[-1] if rates else 0.0))
    return rates
