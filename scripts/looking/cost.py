"""What a page that is looked at costs a training: stretches with and without it, in turns, within one training."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil

SOONEST, REST = 2.0, 200  # seconds between two looks, and their rest by what they took, as the page does it
FIRST = 30  # steps before the first stretch: everything is compiled, allocated and read
ROOT = Path(__file__).resolve().parents[2]


def report(place: Path, pairs: int, stretch: float, bound: float) -> int:
    """Print the seconds of a step with and without the page, and the ratio; 1 when it is above the bound.

    Both are parts of one training: machines differ from minute to minute by more than what is measured here. Without
    the page its server is stopped (SIGSTOP), so that it does nothing at all. Of each pair, chance says which is first.
    """
    chance, run = random.Random(0), place / "run"
    order = [looked for _ in range(pairs) for looked in chance.sample([False, True], 2)]
    with training(run) as (server, address):
        borders = [length(run)]
        for looked in order:
            server.send_signal(signal.SIGCONT if looked else signal.SIGSTOP)
            over = time.monotonic() + stretch
            while looked and time.monotonic() < over:
                rest = max(SOONEST, REST * look(address, run.name))
                time.sleep(max(0.0, min(rest, over - time.monotonic())))
            time.sleep(max(0.0, over - time.monotonic()))
            borders.append(length(run))
        server.send_signal(signal.SIGCONT)
        used = sum(server.cpu_times()[:2])
    times = seconds(run)
    found = [times[start + 1 : end] for start, end in pairwise(borders)]  # the step at a border belongs to neither
    means = np.array([np.mean(stretch_) for stretch_ in found]).reshape(pairs, 2)
    looked = np.array(order).reshape(pairs, 2)
    ratios = means[looked] / means[~looked]
    drawn = np.random.default_rng(0).choice(ratios, (10_000, pairs)).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975]) - 1
    print(f"{pairs} pairs of stretches of {stretch:g} s, {sum(map(len, found))} steps; the server used {used:.1f} s")
    print(f"a step: {1000 * means[~looked].mean():.1f} ms without, {1000 * means[looked].mean():.1f} ms with the page")
    cost, between = ratios.mean() - 1, f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
    print(f"slower by {100 * cost:+.2f} % ({between}), bound {100 * bound:.0f} %")
    return int(cost > bound)


@contextlib.contextmanager
def training(run: Path) -> Iterator[tuple[psutil.Process, str]]:
    """A pretraining that goes on until the block ends: the process of its page, and the page's address."""
    sets = {"steps": 1_000_000, "eval_every": 1_000_000, "save_every": 1_000_000, "log_every": 1}
    options = [part for name, value in sets.items() for part in ("--set", f"pretrain.{name}={value}")]
    command = [sys.executable, "-m", "minigpt", "train", "pretrain", "--data", "world", "--run", str(run)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": "true"}  # no window: `look` is the reader
    said = run.with_suffix(".txt")
    with said.open("w") as file:
        child = subprocess.Popen([*command, *options, "--watch"], env=environment, stderr=file)
    try:
        while length(run) < FIRST:
            if child.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {said.read_text()}")
            time.sleep(1)
        server = next(one for one in psutil.Process(child.pid).children(recursive=True) if "watch" in one.cmdline())
        yield server, re.search(r"http://127\.0\.0\.1:\d+/", said.read_text())[0]
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def seconds(run: Path) -> list[float]:
    """What each step took that is in the journal."""
    path = run / "pretrain" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    return [line["seconds"] for line in lines if "seconds" in line]


def length(run: Path) -> int:
    return len(seconds(run))


def look(address: str, run: str) -> float:
    """Ask for what the open page asks for; the seconds that the server computed."""
    spent = 0.0
    for path in ("api/runs", f"api/run?run={run}", f"api/curves?run={run}&stage=pretrain"):
        with urllib.request.urlopen(address + path, timeout=30) as answer:
            answer.read()
            spent += float(answer.headers["Server-Timing"].removeprefix("cpu;dur=")) / 1000
    return spent
