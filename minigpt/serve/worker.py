"""The one thread that owns the engines: it computes a step of every busy model in turn, and hands tokens out.

Frameworks bind arrays to the thread that made them, so that the models are opened in it, too. Clients live in the
event loop; what passes between the two are commands in a queue and batches of tokens in `call_soon_threadsafe`.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from minigpt.errors import MiniGPTError
from minigpt.generate.engine import Engine
from minigpt.generate.scheduler import Scheduler
from minigpt.machine.ceiling import give_back
from minigpt.serve.bounds import Bounds
from minigpt.serve.refusals import Refused

if TYPE_CHECKING:
    from minigpt.generate.request import Request, Sequence, Token
    from minigpt.machine.brake import Brake

REST = 10.0  # seconds without work, after which the memory that nothing uses goes back to the system


@dataclass(frozen=True)
class Served:
    """A model under its name. `stage` is the one that made it; `answers`: it was taught to answer a message."""

    name: str
    engine: Engine
    stage: str
    answers: bool
    created: int

    @property
    def context(self) -> int:
        return self.engine.model.config.context

    @cached_property
    def most_bytes(self) -> int:
        """A text with more bytes does not fit the context, however it is cut into tokens."""
        return self.context * max(map(len, self.engine.tokenizer.token_bytes))


@dataclass(eq=False)
class Ticket:
    """One sequence of a request, as its client sees it. Times are those of `time.monotonic`."""

    model: str
    request: "Request"
    inbox: asyncio.Queue  # of (ticket, Token), or (ticket, Refused) where it failed
    index: int = 0  # which of the request's sequences
    sequence: "Sequence | None" = None
    asked: float = field(default_factory=time.monotonic)
    started: float | None = None  # when it left the queue
    first: float | None = None  # when its first token came
    last: float | None = None
    over: bool = False


Watcher = Callable[[Ticket, "Token"], None]


class Worker:
    """`start` opens the models; `submit` and `cancel` are called from the event loop, whose thread is not this one's.

    `watch` is told of every token before its client is, `left` of every answer that has no last one, with "abort" or
    "error", both in the event loop; `stepped` of every step, in the thread.
    """

    def __init__(
        self, opened: Callable[[], list[Served]], bounds: Bounds, brake: "Brake | None" = None, exact: bool = False
    ):
        self._opened, self.bounds, self.brake, self.exact = opened, bounds, brake, exact
        self.models: dict[str, Served] = {}
        self.schedulers: dict[int, Scheduler] = {}  # by the engine that several names may share
        self._names: dict[int, str] = {}  # of schedulers
        self.tickets: dict[Any, Ticket] = {}  # in flight, by sequence; only the thread touches it
        self.in_flight = 0  # tickets; only the event loop touches it
        self.steps = 0
        self.watch: Watcher = lambda ticket, token: None
        self.left: Callable[[Ticket, str], None] = lambda ticket, reason: None
        self.stepped: Callable[[str, int], None] = lambda model, tokens: None
        self._commands: queue.SimpleQueue = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._beat = time.monotonic()
        self._idle, self._ending, self._given_back = True, False, True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # ---- from the event loop

    def start(self) -> None:
        """Open the models; raises what opening them raises."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Where tokens are handed out."""
        self._loop = loop

    def trouble(self) -> str | None:
        """Why no answers come: the engine is dead or stuck; None while all is well."""
        if not self._thread.is_alive():
            return f"The engine has died: {self._failure or 'its thread has ended'}."
        silent = time.monotonic() - self._beat
        if not self._idle and silent > self.bounds.stuck:
            return f"The engine is stuck: its last step began {silent:.0f} seconds ago."
        return None

    def named_schedulers(self) -> list[tuple[str, Scheduler]]:
        """Each scheduler under one name, the first of its model's."""
        return [(self._names[id(scheduler)], scheduler) for scheduler in self.schedulers.values()]

    def room(self, sequences: int) -> bool:
        """Whether so many more sequences may come in."""
        return self.in_flight + sequences <= self.bounds.rows + self.bounds.queue

    def submit(self, ticket: Ticket) -> None:
        self.in_flight += 1
        self._commands.put(("add", ticket))

    def cancel(self, ticket: Ticket) -> None:
        """Free its row at once; nothing more comes of it."""
        if not ticket.over:
            self._end(ticket)
            self.left(ticket, "abort")
            self._commands.put(("cancel", ticket))

    def stop(self) -> None:
        """End the thread after the step it is in."""
        self._ending = True
        self._commands.put(("stop", None))
        self._thread.join(timeout=5)

    def _end(self, ticket: Ticket) -> None:
        ticket.over = True
        self.in_flight -= 1

    def _hand_out(self, found: list[tuple[Ticket, Any]]) -> None:
        now = time.monotonic()
        for ticket, token in found:
            if ticket.over:
                continue
            if isinstance(token, Refused):
                self._end(ticket)
                if token.status >= 500:
                    self.left(ticket, "error")
            else:
                self.watch(ticket, token)
                ticket.first = ticket.first or now
                ticket.last = now
                if token.done:
                    self._end(ticket)
            ticket.inbox.put_nowait((ticket, token))

    # ---- in the thread

    def _run(self) -> None:
        try:
            for model in self._opened():
                self.models[model.name] = model
                engine, bounds = model.engine, self.bounds
                if id(engine) not in self.schedulers:
                    scheduler = Scheduler(engine, bounds.rows, bounds.chunk, bounds.cache, self.exact)
                    self.schedulers[id(engine)], self._names[id(scheduler)] = scheduler, model.name
            self._ready.set()
            while not self._ending:
                self._serve()
        except BaseException as error:
            self._failure = error
            self._fail(list(self.tickets.values()), "The engine has died.")
        finally:
            self._ready.set()

    def _serve(self) -> None:
        """Take what was asked for, and compute one step of every model that has something to do."""
        self._idle = self._nothing_to_do()
        self._take_commands(wait=self._idle)
        if self._nothing_to_do():
            self._rest()
            return
        self._beat, self._idle, self._given_back = time.monotonic(), False, False
        for scheduler in self.schedulers.values():
            if not scheduler.idle:
                self._step(scheduler)
        if self.brake is not None:
            self.brake.rest(1.0)

    def _nothing_to_do(self) -> bool:
        return all(scheduler.idle for scheduler in self.schedulers.values())

    def _rest(self) -> None:
        """Once in each pause: frameworks keep freed memory for the next step, and none may come for hours."""
        if not self._given_back and time.monotonic() - self._beat > REST:
            self._given_back = True
            give_back(next(iter(self.models.values())).engine.model.backend)

    def _step(self, scheduler: Scheduler) -> None:
        own = [ticket for ticket in self.tickets.values() if self._scheduler(ticket) is scheduler]  # the oldest first
        try:
            tokens = scheduler.step()
        except Exception as error:  # a row that fails does not raise; this is the batch as a whole
            self._abandon(scheduler, own, f"{type(error).__name__} in the engine.")
            return
        self.steps += 1
        self.stepped(self._names[id(scheduler)], len(tokens))
        now, found = time.monotonic(), []
        for ticket in own[: scheduler.running]:
            ticket.started = ticket.started or now
        for token in tokens:
            ticket = self.tickets.get(token.sequence)
            if ticket is not None:
                ticket.started = ticket.started or now
                if token.done:
                    del self.tickets[token.sequence]
                failed = token.done and token.sequence.reason == "error"
                found.append((ticket, Refused(500, token.sequence.error, "engine_error") if failed else token))
        self._send(found)

    def _abandon(self, scheduler: Scheduler, tickets: list[Ticket], words: str) -> None:
        """End all that a scheduler has, so that it can go on with what comes."""
        for ticket in tickets:
            del self.tickets[ticket.sequence]
            scheduler.cancel(ticket.sequence)
        self._fail(tickets, words)

    def _take_commands(self, wait: bool) -> None:
        while True:
            try:
                kind, ticket = self._commands.get(block=wait, timeout=1.0 if wait else None)
            except queue.Empty:
                return
            wait = False
            if kind == "add":
                self._add(ticket)
            elif kind == "cancel" and ticket.sequence in self.tickets:
                del self.tickets[ticket.sequence]
                self._scheduler(ticket).cancel(ticket.sequence)

    def _add(self, ticket: Ticket) -> None:
        if ticket.over:  # its client has left in the meantime
            return
        try:
            ticket.sequence = self._scheduler(ticket).add(ticket.request)
            self.tickets[ticket.sequence] = ticket
        except Exception as error:
            status = 400 if isinstance(error, MiniGPTError) else 500
            self._send([(ticket, Refused(status, str(error) or type(error).__name__))])

    def _scheduler(self, ticket: Ticket) -> Scheduler:
        return self.schedulers[id(self.models[ticket.model].engine)]

    def _fail(self, tickets: list[Ticket], words: str) -> None:
        self._send([(ticket, Refused(500, words, "engine_error")) for ticket in tickets])

    def _send(self, found: list[tuple[Ticket, Any]]) -> None:
        if found and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, found)
