"""Many clients of one server, the same 26 M float32 weights: MiniGPT beside llama-server, and beside mlx_lm.server.

The server has all cores but one, its clients the last one, whoever serves. Each client asks again when it is answered.
Prompts are unlike from their first word on, so that nobody can know their beginnings.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, given, worker
from serving.load import answer
from serving.planned import cores_apart
from serving.production import answers, free_port
from serving.started import serving as our_server

CLIENTS = (1, 4, 16, 64)
ROWS = 16  # that a server computes together
PROMPTS, NEW = (4, 40), 48  # words of a prompt, tokens of an answer
CONTEXT = 256
WARM = 0.2  # of a measurement's time, which is not counted
MLX_SERVER = "from backends import get_backend; get_backend('mlx'); from mlx_lm.server import main; main()"
LLAMA_SERVER = """
import os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]) * int(sys.argv[3]), int(sys.argv[3])
params.n_gpu_layers = params.cache_ram_mib = params.verbosity = 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
params.ui = False
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def serving(seconds: float) -> list[Duel]:
    """Tokens a second of all clients, and the time to the first token, for each number of clients."""
    figures = {}
    for clients in CLIENTS:
        figures |= {f"tokens/s, {clients} at once": True}
        figures |= {f"ms to first token, {share} of 100, {clients} at once": False for share in (50, 99)}

    def contestant(name: str, key: str) -> Contestant:
        return Contestant(name, lambda directory: worker(given(directory), "serving", key, str(seconds))[0])

    pairs = {"torch": ("torch", "llama-server", "llama"), "MLX": ("mlx", "mlx_lm.server", "mlx_lm")}
    return [
        Duel(f"serving, {name}", [contestant(f"MiniGPT {backend}", backend), contestant(peer, key)], figures,
             lambda directory: worker(directory, "serving", "prepare", "0"))
        for name, (backend, peer, key) in pairs.items()
    ]  # fmt: skip


def prepare() -> None:
    """Here: a run with seeded random weights, and its exports, a llama's that all know."""
    from comparisons.start import exported, llama, made_up_tokenizer, started_run

    config = llama("medium", f"model.context={CONTEXT}")
    run = started_run(Path("run"), config, made_up_tokenizer(config.tokenizer.vocab_size))
    exported(run, "hf", Path("hf"))
    exported(run, "gguf", Path("gguf"))


@contextmanager
def served(who: str) -> Iterator[tuple[str, str]]:
    """(address, model's name) of a server that runs as long as the block."""
    if who in ("torch", "mlx"):
        with our_server([Path("run")], "--power", "full", "--backend", who, "--rows", ROWS, "--queue", 200) as server:
            yield server.url, "run"
        return
    if who == "llama":
        path = next(Path("gguf").glob("*.gguf"))
        words = [sys.executable, "-c", LLAMA_SERVER, str(path), str(CONTEXT), str(ROWS)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        address = process.stdout.readline().strip()
    else:
        port = free_port()
        words = [sys.executable, "-c", MLX_SERVER, "--model", "hf", "--port", str(port), "--log-level", "ERROR",
                 "--decode-concurrency", str(ROWS), "--prompt-concurrency", str(ROWS)]  # fmt: skip
        process = subprocess.Popen(words, stdin=subprocess.PIPE)
        address = f"http://127.0.0.1:{port}"
    try:
        answers(f"{address}/v1/models", seconds=120)
        yield address, "hf"
    finally:
        process.kill()
        process.wait()


def words(tokenizer: Path) -> list[str]:
    """Words that the tokenizer has seen, to make prompts of."""
    return sorted(set(re.findall(r"[a-z]{4,}", (tokenizer / "tokenizer.json").read_text("utf-8"))))


async def at_once(url: str, model: str, clients: int, seconds: float, known: list[str]) -> Figures:
    """What comes of it while so many clients ask, each again when it is answered."""
    begin = time.monotonic() + WARM * seconds
    end, tokens, firsts = begin + seconds, [0.0], list[float]()

    async def client(number: int) -> None:
        chance = random.Random(f"{clients} {number}")
        while (asked := time.monotonic()) < end:
            text = " ".join(chance.choices(known, k=chance.randint(*PROMPTS)))
            body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": NEW}
            status, said, first, count = await answer(url, body | {"temperature": 0})
            if status != 200 or not count:
                raise SystemExit(f"{url} answers {status}: {said[:300]}")
            done = time.monotonic()
            within = max(0.0, min(done, end) - max(asked, begin)) / (done - asked)
            tokens[0] += count * within  # an answer on the border counts by the part of its time within
            if begin <= asked or not firsts:
                firsts.append(1000 * first)

    await asyncio.gather(*(client(number) for number in range(clients)))
    shares = statistics.quantiles(firsts * 2, n=100, method="inclusive")  # twice: one is enough
    return {
        f"tokens/s, {clients} at once": tokens[0] / seconds,
        f"ms to first token, 50 of 100, {clients} at once": shares[49],
        f"ms to first token, 99 of 100, {clients} at once": shares[98],
    }


def measured(who: str, seconds: float) -> Figures:
    found, known = {}, words(Path("hf"))
    with cores_apart() as clients_apart, served(who) as (url, model):
        clients_apart()
        for clients in CLIENTS:
            found |= asyncio.run(at_once(url, model, clients, seconds, known))
            print(json.dumps(found), file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["prepare", "torch", "mlx", "llama", "mlx_lm"])
    parser.add_argument("seconds", type=float)
    who, seconds = vars(parser.parse_args()).values()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if who == "prepare":
        prepare()
        print("{}")
    else:
        print(json.dumps(measured(who, seconds)))
