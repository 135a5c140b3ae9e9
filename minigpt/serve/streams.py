"""Answers that are sent while they are made: server-sent events."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from minigpt.serve.calls import Call, Left, unless_gone
from minigpt.serve.refusals import Refused

DONE = b"data: [DONE]\n\n"


def event(data: Any, name: str | None = None) -> bytes:
    """One event; `data` is sent as JSON, which is one line."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode("utf-8", "replace")


class EventStream(Response):
    """Sends `events` as they come. The call ends with the stream, also when the client leaves.

    An answer that fails in its middle ends with `failed(refusal)`.
    """

    media_type = "text/event-stream"

    def __init__(self, call: Call, events: AsyncIterator[bytes], failed: Callable[[Refused], bytes],
                 ended: Callable[[], None]):  # fmt: skip
        self.call, self.events, self.failed, self.ended = call, events, failed, ended
        self.status_code, self.background = 200, None
        self.init_headers({"X-Accel-Buffering": "no"})  # nginx: pass each event on at once

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def all_of_it() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for part in self.events:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except Refused as refusal:
                await send({"type": "http.response.body", "body": self.failed(refusal), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        try:
            await unless_gone(HTTPRequest(scope, receive), all_of_it())
        except OSError as error:
            raise Left from error
        finally:
            self.call.close()
            self.ended()
            with suppress(RuntimeError):  # it is running no more
                await self.events.aclose()


def openai_failure(refusal: Refused) -> bytes:
    return event(refusal.body("/")) + DONE
