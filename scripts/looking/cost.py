"""Training with and without --watch in turns: how much slower a page that is looked at makes a step."""

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

EVERY = 2.0  # seconds between two looks, as the page does it
ROOT = Path(__file__).resolve().parents[2]


def report(place: Path, pairs: int, steps: int, bound: float) -> int:
    """Print the seconds of a step with and without the page, and the ratio; 1 when it is above the bound."""
    rows = []
    for number in range(pairs):
        order = (False, True) if number % 2 == 0 else (True, False)
        seconds = {watched: training(place / f"run-{number}-{watched}", steps, watched) for watched in order}
        rows.append((seconds[False], seconds[True]))
        plain, seen = rows[-1]
        print(f"pair {number + 1}: {1000 * plain:.2f} ms without, {1000 * seen:.2f} with --watch: {seen / plain:.4f}")
    ratios = [seen / plain for plain, seen in rows]
    middle, spread = statistics.median(ratios), (max(ratios) - min(ratios)) / 2
    shown = f"{100 * (middle - 1):+.2f} % (half range {100 * spread:.2f} %)"
    print(f"median of {pairs} pairs: {shown}, bound {100 * bound:.0f} %")
    if spread > 2 * bound:
        print("The pairs differ more than what is measured: other programs are running; repeat it on a quiet machine.")
    return int(middle - 1 > bound)


def training(run: Path, steps: int, watched: bool) -> float:
    """The median seconds of a step of a short pretraining, the first fifth omitted."""
    sets = {"steps": steps, "eval_every": steps, "save_every": steps, "log_every": 1}
    flags = [part for name, value in sets.items() for part in ("--set", f"pretrain.{name}={value}")]
    command = [sys.executable, "-m", "minigpt", "train", "pretrain", "--data", "world", "--run", str(run),
               *flags, *(["--watch"] if watched else [])]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": "true"}  # no window: `look` is the reader
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        over = threading.Event()
        for line in child.stderr:
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            if found:
                threading.Thread(target=look, args=(found[0], run.name, over), daemon=True).start()
        over.set()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    lines = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    times = [line["seconds"] for line in lines if "seconds" in line]
    return statistics.median(times[len(times) // 5 :])


def look(address: str, run: str, over: threading.Event) -> None:
    """Ask for what the open page asks for, as often as it does."""
    while not over.is_set():
        for path in ("api/runs", f"api/run?run={run}", f"api/curves?run={run}&stage=pretrain"):
            try:
                urllib.request.urlopen(address + path, timeout=5).read()
            except OSError:
                break  # the run is not there yet, or over
        over.wait(EVERY)
