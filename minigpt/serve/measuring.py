"""How fast a server answers, asked over HTTP as its clients do."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

WARM = 0.3  # of a measurement's time, which is not counted


async def ask(url: str, model: str, tokens: int, number: int) -> float:
    """Ask for an answer of `tokens` tokens that does not end sooner; returns the seconds it took."""
    place, began = urlsplit(url), time.monotonic()
    body = {"model": model, "prompt": f"{number}: Once upon a time", "max_tokens": tokens, "seed": number,
            "ignore_eos": True}  # fmt: skip
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        answer = await reader.read()
    finally:
        writer.close()
    if b" 200 " not in answer[:20]:
        raise RuntimeError(f"The server refused: {answer[-300:].decode('utf-8', 'replace')}")
    return time.monotonic() - began


async def rate(url: str, model: str, tokens: int, clients: int, seconds: float) -> float:
    """Answers a second while `clients` ask, each again when it is answered."""
    begin = time.monotonic() + WARM * seconds
    end, done = begin + seconds, 0

    async def client(number: int) -> None:
        nonlocal done
        while time.monotonic() < end:
            began = time.monotonic()
            await ask(url, model, tokens, number)
            now = time.monotonic()
            inside = max(0.0, min(now, end) - max(began, begin))
            done += inside / (now - began)  # an answer on the border counts by the part of its time within

    await asyncio.gather(*(client(number) for number in range(clients)))
    return done / seconds


async def rates(url: str, model: str, tokens: int, rows: int, seconds: float) -> dict[int, float]:
    """Number of requests at work -> answers a second, for 1, 2, 4, … up to `rows`."""
    numbers = sorted({*(2**k for k in range(rows.bit_length())), rows} - {0})
    return {n: await rate(url, model, tokens, n, seconds) for n in numbers if n <= rows}


async def by_chance(url: str, model: str, tokens: int, load: float, seconds: float, seed: int = 1) -> Sequence[float]:
    """The times that answers take when requests come by chance, `load` a second (a Poisson process)."""
    chance, tasks, end = random.Random(seed), [], time.monotonic() + seconds
    moment = time.monotonic()
    while (moment := moment + chance.expovariate(load)) < end:
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        tasks.append(asyncio.create_task(ask(url, model, tokens, len(tasks))))
    return await asyncio.gather(*tasks)
