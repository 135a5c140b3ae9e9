"""How many replicas a load needs: a birth–death queue with the rates that were measured.

The state is the number n of requests that one replica has; a birth is a request that comes by chance (a Poisson
process), a death an answer that ends. An engine's rows share one machine, so that the rate of deaths is not n times
that of one. It is measured with n clients that ask again when they are answered: what they ask is replaced by one
server with those rates (Chandy, Herzog and Woo 1975; exact for networks of queues with a product form). Rows share the
rate evenly: as long as none waits, the mean times depend on the answers' mean length only (processor sharing, Kelly
1979). Who waits for a row waits as the chain has it if lengths have no memory, with equal lengths about half as long.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.errors import UsageError
from minigpt.serve.measuring import Measured


@dataclass(frozen=True)
class Replica:
    """What one replica does. Sequences are by the number of requests that it has, from 1 to its rows."""

    rates: Sequence[float]  # answers a second
    first: Sequence[float]  # seconds from a row to the first token
    most: float  # answers a second while more requests are there than rows

    @property
    def rows(self) -> int:
        return len(self.rates)

    def rate(self, requests: int) -> float:
        """Answers a second with so many requests, one or more."""
        return self.rates[requests - 1] if requests <= self.rows else self.most


@dataclass(frozen=True)
class Steady:
    """A replica under a steady load. Times in seconds; `busy` is the share of its highest rate that it works at."""

    busy: float
    wait: float  # on average, until a row is free
    first: float  # on average, until the first token: what somebody at a screen waits for
    answer: float  # on average, until the last one
    late: float  # the share of requests whose first token comes later than asked


def replica(measured: dict[int, Measured], rows: int) -> Replica:
    """A replica from what was measured at some numbers of requests, with straight lines between them.

    Rates and times never fall with more at work: what a measurement shows to the contrary is noise.
    """
    counts = range(1, rows + 1)
    rates = _rising([_between({n: one.rate for n, one in measured.items()}, n) for n in counts])
    first = _rising([_between({n: one.first for n, one in measured.items() if n <= rows}, n) for n in counts])
    return Replica(rates, first, max(rates[-1], measured[max(measured)].rate))


def steady(load: float, one: Replica, within: float) -> Steady | None:
    """What a replica does under `load` requests a second that come by chance; None where it cannot keep up.

    P(n + 1) = P(n) · load / rate(n + 1) (Kleinrock 1975, chapter 3; M/M/c has the rates μ, 2μ, …, cμ). Who comes finds
    the replica as it is on average. What waits leaves the queue at the highest rate, so that the wait of who has to
    wait is exponential.
    """
    if load >= one.most:
        return None
    weights = [1.0]  # of n requests there, n = 0 … rows
    for rate in one.rates:
        weights.append(weights[-1] * load / rate)
    ratio = load / one.most
    full = weights[-1] / (1 - ratio)  # all states with at least `rows`
    total = sum(weights[:-1]) + full
    waiting = weights[-1] * ratio / (1 - ratio) ** 2 / total  # mean length of the queue
    running = (sum(n * weight for n, weight in enumerate(weights[:-1])) + one.rows * full) / total
    chances = [weight / total for weight in (*weights[:-1], full)]  # of finding 0 … rows - 1, or no free row
    times = [*one.first, one.first[-1]]
    first = waiting / load + sum(chance * time for chance, time in zip(chances, times, strict=True))
    late = sum(chance for chance, time in zip(chances[:-1], times, strict=False) if time > within)
    late += chances[-1] * math.exp(-(one.most - load) * max(0.0, within - times[-1]))
    return Steady(ratio, waiting / load, first, (waiting + running) / load, late)


def replicas(load: float, one: Replica, within: float, late: float = 0.01) -> tuple[int, Steady]:
    """The fewest replicas that share `load` so that no more than `late` of it has its first token after `within`.

    Raises UsageError where even a request alone has not.
    """
    if one.first[0] > within:
        message = f"The first token takes {one.first[0]:.3f} s here when nobody else asks, longer than {within:g} s."
        raise UsageError(message, "Give a longer --within, or a smaller model.")
    few = max(1, math.floor(load / one.most))
    many = few
    while not _enough(load / many, one, within, late):
        few, many = many + 1, many * 2
    while few < many:  # between a number that may be too small and one that is enough
        middle = (few + many) // 2
        few, many = (few, middle) if _enough(load / middle, one, within, late) else (middle + 1, many)
    found = steady(load / many, one, within)
    assert found is not None, (load, many)
    return many, found


def _enough(load: float, one: Replica, within: float, late: float) -> bool:
    found = steady(load, one, within)
    return found is not None and found.late <= late


def _between(known: dict[int, float], n: int) -> float:
    """The value at n on the straight line between its neighbours that are known."""
    low = max((one for one in known if one <= n), default=min(known))
    high = min((one for one in known if one >= n), default=max(known))
    part = 0.0 if high == low else (n - low) / (high - low)
    return known[low] + part * (known[high] - known[low])


def _rising(values: Sequence[float]) -> list[float]:
    return [max(values[: n + 1]) for n in range(len(values))]
