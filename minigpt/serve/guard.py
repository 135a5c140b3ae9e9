"""What stands before every request: Host and Origin, the key, the size and the time of the body, the access log."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minigpt.pages.html import HEADERS
from minigpt.serve.bounds import Bounds
from minigpt.serve.calls import Left
from minigpt.serve.keys import Keys
from minigpt.serve.refusals import Refused

OPEN = ("/", "/health", "/live", "/metrics")  # need no key
STILL = ("/health", "/live", "/metrics")  # are answered while the server ends
MOST_HEADERS = 100
LOCAL = ("127.0.0.1", "localhost", "[::1]")


@dataclass
class Doors:
    """Who may come in. `hosts`: names in a Host header that are answered, None: any (then a key is needed)."""

    keys: Keys
    bounds: Bounds
    hosts: tuple[str, ...] | None = LOCAL
    origins: tuple[str, ...] = ()
    log: Callable[[dict[str, Any]], None] | None = None
    prompts: bool = False  # whether the log shows what was asked
    ending: bool = field(default=False, init=False)  # no new requests


class Guard:
    """ASGI middleware. Whatever goes wrong behind it, its client gets one JSON answer, and others notice nothing."""

    def __init__(self, app: Any, doors: Doors, answered: Callable[[str, int], None] = lambda path, status: None):
        self.app, self.doors, self.answered = app, doors, answered

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        one = _Exchange(self.doors, scope, receive, send)
        try:
            one.check()
            await one.read_body()
            await self.app(scope, one.receive, one.send)
        except Refused as refusal:
            await one.refuse(refusal)
        except Left:
            one.status = one.status or 499
        except asyncio.CancelledError:
            one.status = one.status or 499
            raise
        except Exception as error:
            one.error = type(error).__name__
            await one.refuse(Refused(500, f"{type(error).__name__} in the server.", "internal_error"))
        finally:
            one.finish()
            self.answered(one.path, one.status)


class _Exchange:
    """One request and its answer."""

    def __init__(self, doors: Doors, scope: dict, receive: Callable, send: Callable):
        self.doors, self.scope, self._receive, self._send = doors, scope, receive, send
        self.began = time.monotonic()
        self.id = f"req-{secrets.token_hex(12)}"
        self.status = 0
        self.error = self.tenant = None
        self.body: bytes | None = b""
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        scope.setdefault("state", {})
        self.notes = scope["state"]["notes"] = {}  # what an endpoint adds to the log
        scope["state"]["id"] = self.id

    @property
    def path(self) -> str:
        return self.scope["path"]

    def check(self) -> None:
        """Raises Refused for a request that may not come in."""
        size, most = sum(len(name) + len(value) for name, value in self.scope["headers"]), self.doors.bounds.headers
        if size > most or len(self.scope["headers"]) > MOST_HEADERS:
            raise Refused(431, f"The headers are larger than {most:,} bytes.", "headers_too_large")
        hosts, host = self.doors.hosts, self.headers.get("host", "")
        if [name for name, _ in self.scope["headers"]].count(b"host") > 1:
            raise Refused(400, "The request has two Host headers.", "invalid_host")
        if hosts is not None and _name(host) not in hosts:
            hint = "Start the server with --allow-host to answer to that name."
            raise Refused(403, f"This server does not answer to the Host {host[:100]!r}. {hint}", "invalid_host")
        origin = self.headers.get("origin")
        if origin is not None and origin not in self.doors.origins and origin.split("://")[-1] != host:
            message = f"Pages of {origin[:100]!r} may not ask this server. --allow-origin lets them."
            raise Refused(403, message, "invalid_origin")
        if self.doors.ending and self.path not in STILL:
            raise Refused(503, "The server is ending; another one may answer.", "ending", retry_after=5)
        if self.path in OPEN or self.scope["method"] == "OPTIONS":
            return
        given = self.headers.get("x-api-key")
        kind, _, word = self.headers.get("authorization", "").partition(" ")
        if given is None and kind.lower() == "bearer":
            given = word.strip()
        self.tenant = self.scope["state"]["tenant"] = self.doors.keys.tenant(given)
        if self.scope["method"] == "POST":
            self.tenant.admit()

    async def read_body(self) -> None:
        """Take the whole body. Raises Refused when it is too large or too slow, Left when it ends too soon."""
        most = self.doors.bounds.body
        too_large = Refused(413, f"The body is larger than {most:,} bytes.", "body_too_large")
        length = self.headers.get("content-length", "0")
        if not length.isdigit() or int(length[:20]) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.doors.bounds.arrive):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Left
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            message = f"The body did not arrive within {self.doors.bounds.arrive:g} seconds."
            raise Refused(408, message, "body_too_slow") from None
        self.body = b"".join(parts)
        if self.doors.prompts:
            self.notes["body"] = self.body.decode("utf-8", "replace")

    async def receive(self) -> dict:
        """The body, once; afterwards only that the client leaves."""
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            more = HEADERS | {"X-Request-Id": self.id} | self._cross_origin()
            added = [(name.lower().encode(), value.encode()) for name, value in more.items()]
            message["headers"] = [*message["headers"], *added]
        await self._send(message)

    async def refuse(self, refusal: Refused) -> None:
        """Say so, unless an answer has begun."""
        self.notes["refused"] = refusal.code or refusal.status
        if self.status:
            return
        body = json.dumps(refusal.body(self.path)).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | refusal.headers()
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": body if self.scope["method"] != "HEAD" else b""})

    def finish(self) -> None:
        """A line for the log: who, what, how long; what was asked only if that is wanted."""
        if self.doors.log is None:
            return
        client = self.scope.get("client")
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "id": self.id,
            "client": client[0] if client else None, "key": self.tenant.name if self.tenant else None,
            "method": self.scope["method"], "path": self.path[:200], "status": self.status,
            "seconds": round(time.monotonic() - self.began, 4),
        }  # fmt: skip
        self.doors.log(line | ({"error": self.error} if self.error else {}) | self.notes)

    def _cross_origin(self) -> dict[str, str]:
        """What lets a page of a chosen origin read the answer."""
        origin = self.headers.get("origin")
        if origin is None or origin not in self.doors.origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin, "Vary": "Origin", "Access-Control-Max-Age": "600",
            "Access-Control-Allow-Headers": "authorization, content-type, x-api-key, anthropic-version",
            "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        }  # fmt: skip


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() and not host.endswith("]") else host).lower()
