"""Many long runs: how long `minigpt list` and `minigpt compare` take, and how much memory."""

import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path


def report(place: Path, runs: int, points: int, bounds: dict[str, float]) -> int:
    """Make the runs, list and compare them, print what it took; 1 when it was more than the bounds."""
    make(place / "runs", runs, points)
    names = [f"runs/run{number:03d}" for number in range(runs)]
    good = True
    for command, arguments in (("list", ["--json"]), ("compare", [*names, "--json"])):
        seconds, processor, memory = taken(place, command, *arguments)
        good &= processor <= bounds[command] and memory <= bounds["memory"]
        print(f"{command:<8} {runs} runs of {points:,} points: {said(seconds, processor, memory)}")
    print(f"compare with a page of curves: {said(*taken(place, 'compare', *names, '--html', 'all.html', '--json'))}")
    kept = "kept" if good else "NOT KEPT"
    print(f"bounds, of the processor: {bounds['list']} s, {bounds['memory'] / 1e6:.0f} MB: {kept}")
    return int(not good)


def make(root: Path, runs: int, points: int) -> None:
    """Runs whose journals are hard links of one file: what is read is as long as if each had its own."""
    chance, lines = random.Random(0), []
    for step in range(1, points + 1):
        loss = 5 / math.log(step + 2) + chance.random()
        lines.append({"step": step, "loss": loss, "learning_rate": 0.001, "norm": 1.2, "tokens": 512, "seconds": 0.05})
        if step % 500 == 0:
            lines.append({"step": step, "validation_loss": loss})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    for number in range(runs):
        stage = root / f"run{number:03d}" / "pretrain"
        stage.mkdir(parents=True)
        settings = f"[pretrain]\nsteps = {points}\nlearning_rate = {number / 1000}\n"
        (stage.parent / "config.toml").write_text(f"seed = {number}\n{settings}[data]\npretrain = ['world']\n")
        first = root / "run000" / "pretrain" / "metrics.jsonl"
        first.write_text(text) if number == 0 else os.link(first, stage / "metrics.jsonl")


def said(seconds: float, processor: float, memory: float) -> str:
    return f"{seconds:.2f} s ({processor:.2f} s of the processor), {memory / 1e6:.0f} MB"


def taken(place: Path, *arguments: str) -> tuple[float, float, float]:
    """(seconds, seconds of the processor, highest bytes resident) of a command, its start included."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "minigpt", *arguments], cwd=place, env=environment,
                             stdout=subprocess.DEVNULL)  # fmt: skip
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"minigpt {' '.join(arguments[:3])} … failed")
    scale = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * scale
