"""How fast a server answers, asked over HTTP as its clients do: answers that are streamed, of unlike lengths."""

import asyncio
import http.client
import json
import math
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

WARM = 0.3  # of a measurement's time, which is not counted
TEXT = "Once upon a time there was a little fox, 3 plus 4."  # whose tokens prompts are drawn from


@dataclass(frozen=True)
class Typical:
    """What is asked: prompts of so many tokens, none like another, and answers whose lengths come by chance.

    Lengths are geometric: how long an answer goes on does not depend on how long it is, as the planner's queue has it.
    Answers of equal length would keep in step, begin together, and have all their prompts read in one pass.
    """

    url: str
    model: str
    ids: tuple[int, ...]  # tokens that prompts are drawn from
    prompt: int
    tokens: int  # of an answer on average, before the context cuts it
    most: int

    @property
    def mean(self) -> float:
        """Tokens of an answer on average: Σ P(length > k) for k below `most`."""
        return self.tokens * (1 - (1 - 1 / self.tokens) ** self.most)

    def draw(self, chance: random.Random) -> int:
        """The tokens of an answer."""
        if self.tokens == 1:
            return 1
        return min(self.most, 1 + int(math.log(1 - chance.random()) / math.log(1 - 1 / self.tokens)))


@dataclass(frozen=True)
class Answered:
    """One answer: the moment when it was asked for, seconds to its first token and to its end, its tokens."""

    asked: float
    first: float
    whole: float
    tokens: int


@dataclass(frozen=True)
class Measured:
    """With so many requests at work: answers a second, and seconds until one has its first token."""

    rate: float
    first: float


def typical(url: str, model: str, prompt: int, tokens: int) -> Typical:
    """What to ask a server for, as far as the model's context has room."""
    context = _asked(url, f"/v1/models/{model}")["max_model_len"]
    ids = _asked(url, "/tokenize", {"model": model, "prompt": TEXT})["tokens"]
    prompt = min(prompt, context // 2)
    return Typical(url, model, tuple(ids), prompt, tokens, context - prompt)


async def ask(what: Typical, chance: random.Random) -> Answered:
    """One answer that does not end before its drawn length. Raises RuntimeError when it is refused."""
    place, tokens, began = urlsplit(what.url), what.draw(chance), time.monotonic()
    body = {"model": what.model, "prompt": chance.choices(what.ids, k=what.prompt), "max_tokens": tokens,
            "seed": chance.getrandbits(32), "ignore_eos": True, "stream": True}  # fmt: skip
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        before, first = b"", None
        while line := await reader.readline():
            before += line
            if line.startswith(b"data: {"):
                first = time.monotonic()
                break
        rest = await reader.read()
    finally:
        writer.close()
    if first is None or b'data: {"error"' in before + rest:
        raise RuntimeError(f"The server refused: {(before + rest)[-300:].decode('utf-8', 'replace')}")
    return Answered(began, first - began, time.monotonic() - began, tokens)


async def at_once(what: Typical, clients: int, seconds: float, seed: int = 0) -> Measured:
    """What comes of it while `clients` ask, each again when it is answered."""
    begin = time.monotonic() + WARM * seconds
    end, found = begin + seconds, list[Answered]()

    async def client(number: int) -> None:
        chance = random.Random(f"{seed} {clients} {number}")
        while time.monotonic() < end:
            found.append(await ask(what, chance))

    await asyncio.gather(*(client(number) for number in range(clients)))

    def within(one: Answered) -> float:  # an answer on the border counts by the part of its time within
        return max(0.0, min(one.asked + one.whole, end) - max(one.asked, begin)) / one.whole

    tokens = sum(one.tokens * within(one) for one in found)
    counted = [one.first for one in found if begin <= one.asked < end] or [one.first for one in found]
    return Measured(tokens / seconds / what.mean, statistics.mean(counted))


async def rates(what: Typical, rows: int, most: int, seconds: float, seed: int = 0) -> dict[int, Measured]:
    """Number of requests at work -> what comes of it, for 1, 2, 4, … `rows`, and for more, of which some wait.

    `most` requests at once are not refused.
    """
    numbers = {*(2**k for k in range(rows.bit_length())), rows, min(2 * rows, most)}
    return {n: await at_once(what, n, seconds, seed) for n in sorted(numbers)}


def measure(
    url: str, model: str, prompt: int, tokens: int, rows: int, most: int, seconds: float
) -> dict[int, Measured]:
    """The same in a process of its own, so that the server does not wait for its clients' Python."""
    return asyncio.run(rates(typical(url, model, prompt, tokens), rows, most, seconds))


async def by_chance(what: Typical, load: float, seconds: float, seed: int = 1) -> list[Answered]:
    """The answers to requests that come by chance, `load` a second (a Poisson process), in order."""
    chance, tasks, moment = random.Random(seed), list[asyncio.Task[Answered]](), time.monotonic()
    end = moment + seconds
    while (moment := moment + chance.expovariate(load)) < end:
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        tasks.append(asyncio.create_task(ask(what, random.Random(chance.getrandbits(64)))))
    return await asyncio.gather(*tasks)


def _asked(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    try:
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"The server refused: {found[:300].decode('utf-8', 'replace')}")
        return json.loads(found)
    finally:
        connection.close()
