"""Many clients at once that come, leave and make mistakes: does each get the answer that its request gets alone?"""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

WORDS = ["the cat", "sat on", "a mat", "and", "3 plus 4", "is", "what", "小猫", "在睡觉", "say hello", "yes", "no"]
EVERY = 10  # seconds between two reports


@dataclass
class Found:
    """What a load has shown. `mixed`: answers that were another one's; `first`: seconds to the first token."""

    asked: int = 0
    compared: int = 0
    left: int = 0
    refused: int = 0
    mixed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


def bodies(model: str, count: int, chance: random.Random) -> list[dict]:
    """Requests of unequal lengths, half of them greedy, the others with a seed of their own."""
    found = []
    for number in range(count):
        text = " ".join(chance.choices(WORDS, k=chance.randint(1, 20)))
        how = {"temperature": 0} if number % 2 else {"temperature": 1.0, "seed": number}
        message = [{"role": "user", "content": f"{number}: {text}"}]
        found.append({"model": model, "messages": message, "max_tokens": chance.randint(4, 40)} | how)
    return found


async def answer(url: str, body: dict, leave_after: int | None = None) -> tuple[int, str, float, int]:
    """(status, text, seconds to the first token, tokens); with `leave_after` the client goes after so many events."""
    place, began, first = urlsplit(url), time.monotonic(), 0.0
    content = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        await writer.drain()
        if leave_after == 0:
            return 0, "", 0.0, 0
        status = int((await reader.readline()).split()[1])
        text, tokens, events = "", 0, 0
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                break
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return 500, event["error"]["message"], first, tokens
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                first = first or (time.monotonic() - began if piece else 0.0)
                text += piece
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            events += 1
            if leave_after is not None and events >= leave_after:
                return 0, text, first, tokens
        return status, text, first, tokens
    finally:
        writer.close()


async def load(
    url: str, model: str, clients: int, requests: int | None, seed: int = 1, distinct: int = 40,
    seconds: float | None = None, tell: Callable[[Found], None] = lambda found: None,
) -> Found:  # fmt: skip
    """Ask `requests` times, or for so many seconds, by `clients` at once, after each of `distinct` requests was
    answered alone. `tell` is called now and then, and at the end.
    """
    chance, found = random.Random(seed), Found()
    asked = bodies(model, distinct, chance)
    alone = [await answer(url, body) for body in asked]
    if failed := [text for status, text, *_ in alone if status != 200]:
        raise SystemExit(f"A request fails alone: {failed[0]}")
    began = time.monotonic()

    def goes_on() -> bool:
        found.seconds = time.monotonic() - began
        return (requests is None or found.asked < requests) and (seconds is None or found.seconds < seconds)

    async def client() -> None:
        while goes_on():
            await _one(url, asked, alone, chance, found)

    async def telling() -> None:
        while True:
            await asyncio.sleep(EVERY)
            tell(found)

    teller = asyncio.create_task(telling())
    await asyncio.gather(*(client() for _ in range(clients)))
    teller.cancel()
    found.seconds = time.monotonic() - began
    tell(found)
    return found


async def _one(url: str, asked: list[dict], alone: list, chance: random.Random, found: Found) -> None:
    """One request of a random kind."""
    number, kind = chance.randrange(len(asked)), chance.random()
    found.asked += 1
    await asyncio.sleep(chance.random() * 0.02)
    if kind < 0.2:  # goes in the middle of the answer, or before it begins
        await answer(url, asked[number], chance.randint(0, 6))
        found.left += 1
        return
    if kind < 0.25:
        status, *_ = await answer(url, asked[number] | {"temperature": 99})
        if status != 400:
            found.errors.append(f"a wrong request got {status}")
        found.refused += 1
        return
    status, text, first, tokens = await answer(url, asked[number])
    if status == 429:
        found.refused += 1
    elif status != 200:
        found.errors.append(f"{status}: {text}")
    else:
        found.compared += 1
        found.tokens += tokens
        found.first.append(first)
        if text != alone[number][1]:
            found.mixed.append(f"request {number}: {text!r} instead of {alone[number][1]!r}")
