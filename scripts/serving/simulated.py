"""One replica as a queue of single requests, event by event: what the planner's formulas must agree with."""

import heapq
import math
from collections import deque
from collections.abc import Sequence

from minigpt.serve.planning import Replica


def times(arrivals: Sequence[float], works: Sequence[float], one: Replica) -> list[tuple[float, float]]:
    """(seconds until a row is free, seconds until the answer has ended) of each request.

    They arrive at rising moments; a work is an answer's share of the mean one. Rows share the replica's rate evenly,
    and who finds none free waits in line.
    """
    ends: list[tuple[float, int]] = []  # of the rows: the work that each row has had in all when it ends, and whose
    line: deque[int] = deque()
    waits, wholes = [0.0] * len(arrivals), [0.0] * len(arrivals)
    now, had, coming = 0.0, 0.0, 0  # `had`: the work that a row has had that was always busy
    while coming < len(arrivals) or ends:
        speed = one.rate(len(ends) + len(line)) / len(ends) if ends else 0.0
        end = now + max(0.0, ends[0][0] - had) / speed if ends else math.inf
        arrival = arrivals[coming] if coming < len(arrivals) else math.inf
        had += (min(end, arrival) - now) * speed
        now = min(end, arrival)
        if arrival < end:
            line.append(coming)
            coming += 1
        else:
            _, number = heapq.heappop(ends)
            wholes[number] = now - arrivals[number]
        while line and len(ends) < one.rows:
            number = line.popleft()
            waits[number] = now - arrivals[number]
            heapq.heappush(ends, (had + works[number], number))
    return list(zip(waits, wholes, strict=True))
