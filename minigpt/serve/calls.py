"""A request in flight: its sequences, what comes of them, and how it ends when its client or its time is gone."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request as HTTPRequest

from minigpt.serve.refusals import Refused
from minigpt.serve.worker import Served, Ticket, Worker

if TYPE_CHECKING:
    from minigpt.generate.request import Request, Token
    from minigpt.serve.keys import Tenant

T = TypeVar("T")


class Left(Exception):
    """The client has gone; nobody waits for an answer."""


@dataclass(eq=False)
class Call:
    """The sequences of one request to a model: from `begin` to `close`, which cancels what has not ended."""

    worker: Worker
    model: Served
    requests: Sequence["Request"]
    tenant: "Tenant"
    tickets: list[Ticket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inbox: asyncio.Queue = asyncio.Queue()
        self.end = time.monotonic() + self.worker.bounds.answer

    def begin(self) -> "Call":
        """Raises Refused when there is no room for the sequences, or nobody to compute them."""
        worker = self.worker
        if (trouble := worker.trouble()) is not None:
            raise Refused(503, trouble, "engine_error", retry_after=30)
        if not worker.room(len(self.requests)):
            message = f"All {worker.bounds.rows + worker.bounds.queue} places are taken. Try again later."
            raise Refused(429, message, "queue_full", retry_after=self._wait())
        for index, request in enumerate(self.requests):
            ticket = Ticket(self.model.name, request, self.inbox, index)
            self.tickets.append(ticket)
            worker.submit(ticket)
        return self

    def close(self) -> None:
        for ticket in self.tickets:
            self.worker.cancel(ticket)
        self.tenant.used(self.prompt_tokens + self.answer_tokens)

    async def tokens(self) -> AsyncIterator[tuple[int, "Token"]]:
        """(which of the sequences, its next token) until all have ended. Raises Refused when one fails."""
        late = Refused(504, f"The answer took longer than {self.worker.bounds.answer:g} seconds.", "deadline_exceeded")
        loop, left = asyncio.get_running_loop(), len(self.tickets)
        clock = loop.call_later(max(0.0, self.end - time.monotonic()), self.inbox.put_nowait, (None, late))
        try:
            while left:
                ticket, token = await self.inbox.get()
                if isinstance(token, Refused):
                    raise token
                left -= token.done
                yield ticket.index, token
        finally:
            clock.cancel()

    async def finished(self) -> None:
        """Wait until all sequences have ended."""
        async for _ in self.tokens():
            pass

    def reason(self, index: int) -> str:
        """Why a sequence ended, in OpenAI's words."""
        return "stop" if self.tickets[index].sequence.reason == "stop" else "length"

    def stopped_by(self, index: int) -> str | None:
        """The stop text that ended a sequence, where one did."""
        stop = self.tickets[index].sequence.stop
        return stop if isinstance(stop, str) else None

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts; one that several sequences answer counts once."""
        return sum(len(prompt) for prompt in {id(r.prompt): r.prompt for r in self.requests}.values())

    @property
    def answer_tokens(self) -> int:
        return sum(len(ticket.sequence.ids) for ticket in self.tickets if ticket.sequence is not None)

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts whose keys and values were there already."""
        return min(self.prompt_tokens, sum(t.sequence.cached for t in self.tickets if t.sequence is not None))

    def _wait(self) -> float:
        """Seconds after which a place may be free: a guess from how long the oldest answers have taken."""
        return min(30.0, 1.0 + self.worker.in_flight / max(1, self.worker.bounds.rows))


async def unless_gone(http: HTTPRequest, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves; then raises Left."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Left
        return working.result()
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _gone(http: HTTPRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
