"""A server's life: it listens, answers, and ends without losing what it has begun."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from minigpt.errors import UsageError
from minigpt.events import Note, Report
from minigpt.serve.app import make_app
from minigpt.serve.guard import Doors
from minigpt.serve.protocol import protocol_with
from minigpt.serve.worker import Worker

Ready = Callable[[int, Callable[[], None]], Any]


def serve(
    worker: Worker, doors: Doors, host: str, port: int, report: Report, ready: Ready = lambda port, end: None
) -> None:
    """Answer until SIGINT or SIGTERM; then finish what has begun, for `bounds.drain` seconds at most.

    A second signal ends at once. `ready` is called with the port when connections are taken, and with what a signal
    does, for other threads to call. Raises UsageError when the port is taken.
    """
    listening = listen(host, port)
    try:
        asyncio.run(serve_on(worker, doors, listening, report, ready))
    finally:
        listening.close()
        worker.stop()


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections. Raises UsageError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host.strip("[]"), port))
        found.listen(512)  # from now on clients wait instead of being refused
    except OSError as error:
        found.close()
        message = f"{host}:{port} cannot be used: {error.strerror or error}."
        raise UsageError(message, "Give another --port, or 0 for any that is free.") from None
    return found


async def serve_on(
    worker: Worker, doors: Doors, listening: socket.socket, report: Report, ready: Ready
) -> None:
    """As `serve`, in a loop that runs, on a socket that listens."""
    bounds, loop = worker.bounds, asyncio.get_running_loop()
    worker.attach(loop)
    config = uvicorn.Config(
        make_app(worker, doors), http=protocol_with(bounds), ws="none", loop="asyncio", lifespan="off", log_config=None,
        log_level="critical", access_log=False, server_header=False, limit_concurrency=bounds.connections, backlog=512,
        h11_max_incomplete_event_size=bounds.headers, timeout_keep_alive=int(bounds.arrive),
        timeout_graceful_shutdown=int(bounds.drain), proxy_headers=False,
    )  # fmt: skip
    server = _Server(config)
    ending = _ending(server, doors, report)
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, and threads of tests
            loop.add_signal_handler(number, ending)

    def end() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended already
            loop.call_soon_threadsafe(ending)

    ready(listening.getsockname()[1], end)
    await server.serve([listening])


def _ending(server: uvicorn.Server, doors: Doors, report: Report) -> Callable[[], None]:
    """What a signal does: admit nothing more and finish; the second time, end at once."""

    def end() -> None:
        if doors.ending:
            server.force_exit = True
            report(Note("Ending at once."))
        else:
            report(Note(f"Ending: answers that have begun may take {server.config.timeout_graceful_shutdown} seconds."))
        doors.ending = server.should_exit = True

    return end


class _Server(uvicorn.Server):
    """uvicorn's server, without its handlers of signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
