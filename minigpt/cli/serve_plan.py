"""`minigpt serve --plan QPS`: measures a server on this machine and says how many a load needs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from minigpt.cli import console, waiting

if TYPE_CHECKING:
    from minigpt.serve.planning import Steady

T = TypeVar("T")
SECONDS = 3.0  # of each measurement


def plan_and_print(worker: Any, doors: Any, load: float, tokens: int, within: float, cost: float) -> None:
    """Measure the first model with 1 to `rows` requests at work, then plan for `load` requests a second."""
    from minigpt.serve.measuring import rates
    from minigpt.serve.planning import between, replicas

    model, rows = next(iter(worker.models)), worker.bounds.rows
    with waiting.working(f"Measuring answers of {tokens} tokens, 1 to {rows} at once"):
        measured = asyncio.run(_measured(worker, doors, lambda url: rates(url, model, tokens, rows, SECONDS)))
    found = between(measured, rows)
    console.note("   at once   answers/s   tokens/s")
    for n, one in measured.items():
        console.note(f"{n:>10}{one:>12.1f}{one * tokens:>11,.0f}")
    count, state = replicas(load, found, within)
    for line in _sentences(load, count, state, found[-1], within, cost):
        console.note(line)


async def _measured(worker: Any, doors: Any, measure: Callable[[str], Awaitable[T]]) -> T:
    """What `measure` finds at the address of a server that runs as long as it takes."""
    from minigpt.serve.running import listen, serve_on

    ready, found = asyncio.Event(), []

    def started(port: int, end: Callable[[], None]) -> None:
        found.extend((port, end))
        ready.set()

    listening = listen("127.0.0.1", 0)
    serving = asyncio.create_task(serve_on(worker, doors, listening, lambda event: None, started))
    try:
        await asyncio.wait({serving, asyncio.ensure_future(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        return await measure(f"http://127.0.0.1:{found[0]}")
    finally:
        found[1]()
        await serving
        listening.close()
        worker.stop()


def _sentences(load: float, count: int, state: "Steady", most: float, within: float, cost: float) -> list[str]:
    price = f" for {count * cost:,.2f} an hour" if cost else ""
    return [
        f"{load:g} requests a second need {count:,} replicas like this one{price}; one alone does {most:.1f}.",
        f"Each is {state.busy:.0%} busy. A request waits {state.wait:.3f} s on average, and {state.late:.2%} of "
        f"them wait longer than {within:g} s; the whole answer takes {state.answer:.2f} s.",
        f"With one to spare for an update or a failure: {count + 1:,}.",
    ]
