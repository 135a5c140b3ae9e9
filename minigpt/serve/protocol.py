"""uvicorn's HTTP/1.1 connections with the deadlines that it has none for.

A client must send the headers of a request in time (slow loris), and must read what it is sent.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from minigpt.serve.bounds import Bounds


def protocol_with(bounds: Bounds) -> type[asyncio.Protocol]:
    """The class of connections that keep to the bounds."""

    class Protocol(H11Protocol):
        """A connection that is cut when its client is too slow, or when there are too many."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._reading = self._writing = None
            if len(self.connections) > 2 * bounds.connections:
                transport.abort()
                return
            self._reading = self.loop.call_later(bounds.arrive, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            busy = self.cycle is not None and not self.cycle.response_complete
            if busy and self._reading is not None:  # the headers are there; the body has a deadline of its own
                self._reading.cancel()
                self._reading = None
            elif not busy and self._reading is None:
                self._reading = self.loop.call_later(bounds.arrive, self.transport.abort)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writing = self.loop.call_later(bounds.arrive, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._reading, self._writing):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

    return Protocol
