"""`minigpt serve --plan QPS`: measures a server on this machine and says how many a load needs."""

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minigpt.cli import console, waiting

if TYPE_CHECKING:
    from minigpt.cli.serve import Planned
    from minigpt.serve.measuring import Measured
    from minigpt.serve.planning import Steady

SECONDS = 3.0  # of each measurement


def plan_and_print(worker: Any, doors: Any, load: float, wanted: "Planned") -> None:
    """Measure the first model with 1 to twice `rows` requests at work, then plan for `load` requests a second."""
    from minigpt.serve.planning import replica, replicas

    rows, tokens = worker.bounds.rows, wanted.tokens
    with waiting.working(f"Measuring answers of {tokens} tokens on average, 1 to {rows} and more at once"):
        measured = asyncio.run(_measured(worker, doors, wanted))
    console.note("  requests   answers/s   tokens/s   first token")
    for n, one in measured.items():
        note = "" if n <= rows else "   (with the wait for a row)"
        console.note(f"{n:>10}{one.rate:>12.1f}{one.rate * tokens:>11,.0f}{one.first:>12.3f} s{note}")
    found = replica(measured, rows)
    count, state = replicas(load, found, wanted.within)
    for line in _sentences(load, count, state, found.most, wanted):
        console.note(line)


async def _measured(worker: Any, doors: Any, wanted: "Planned") -> "dict[int, Measured]":
    """What another process finds at the address of a server that runs as long as it takes."""
    from minigpt.serve.keys import Keys
    from minigpt.serve.measuring import measure
    from minigpt.serve.running import listen, serve_on

    ready, found = asyncio.Event(), []

    def started(port: int, end: Callable[[], None]) -> None:
        found.extend((port, end))
        ready.set()

    bounds, model = worker.bounds, next(iter(worker.models))
    listening, open_doors = listen("127.0.0.1", 0), replace(doors, keys=Keys())  # for this machine only
    serving = asyncio.create_task(serve_on(worker, open_doors, listening, lambda event: None, started))
    try:
        await asyncio.wait({serving, asyncio.ensure_future(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            work = (f"http://127.0.0.1:{found[0]}", model, wanted.prompt_tokens, wanted.tokens, bounds.rows,
                    bounds.rows + bounds.queue, SECONDS)  # fmt: skip
            return await asyncio.get_running_loop().run_in_executor(pool, measure, *work)
    finally:
        found[1]()
        await serving
        listening.close()
        worker.stop()


def _sentences(load: float, count: int, state: "Steady", most: float, wanted: "Planned") -> list[str]:
    price = f" for {count * wanted.cost:,.2f} an hour" if wanted.cost else ""
    return [
        f"{load:g} requests a second need {count:,} replicas like this one{price}; one alone does {most:.1f}.",
        f"Each is {state.busy:.0%} busy. On average a request waits {state.wait:.3f} s for a row, has its first token "
        f"after {state.first:.3f} s and the whole answer after {state.answer:.2f} s;",
        f"{state.late:.2%} of them have their first token later than {wanted.within:g} s.",
        f"With one to spare for an update or a failure: {count + 1:,}.",
    ]
