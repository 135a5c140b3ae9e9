#!/usr/bin/env python
"""Measures whether runs keep their limits: asked against held CPU share, and resident memory against the ceiling.

    python scripts/fitting/throttle.py                     everything, about 40 minutes on two cores
    python scripts/fitting/throttle.py --seconds 20 --shares 50 --backends torch

The share is measured from outside, over all processes of the run, for --seconds of training. "busy" adds a program
that would like a core of its own. Exits with 1 when a share is more than 5 points off or a sample is over the ceiling.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from backends import BACKENDS
from minigpt.cli import tables
from minigpt.machine.cgroups import usable_cores
from minigpt.machine.processes import processes, total, tree

POINTS = 0.05  # how far a held share may be from the one that was asked for
SHORT = {"pretrain.steps": 1_000_000, "pretrain.log_every": 1, "pretrain.eval_every": 200, "pretrain.save_every": 200,
         "data.world_texts": 2000, "data.world_lessons": 0}  # fmt: skip
LARGE = SHORT | {"pretrain.steps": 6, "pretrain.batch_size": 64, "pretrain.eval_rows": 4, "model.n_layer": 2}


@dataclass(frozen=True)
class Held:
    """One measurement; `held` is None when training did not begin."""

    what: str
    asked: float
    held: float | None
    kept: bool
    note: str = ""


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="throttle-") as directory:
        backends, shares = arguments.backends.split(","), [int(s) / 100 for s in arguments.shares.split(",")]
        found = list(shares_held(Path(directory), backends, shares, arguments.seconds))
        memory = list(ceilings_held(Path(directory), backends)) if sys.platform == "linux" else []
    if arguments.json:
        print(json.dumps([vars(row) for row in found + memory], indent=1))
    else:
        show(found, memory)
    return 0 if all(row.kept for row in found + memory) else 1


def shares_held(directory: Path, backends: Sequence[str], shares: Sequence[float], seconds: float) -> Iterator[Held]:
    """The share of the cores that a run takes, for each backend, share, one and all cores, alone and beside a hog."""
    cores = sorted({1, int(usable_cores())}) if hasattr(os, "sched_setaffinity") else [int(usable_cores())]
    for name in backends:
        for count in cores:
            for busy in (False, True):
                for share in shares:
                    if not busy or share <= 1 - 0.5 / count:  # the hog takes half a core at least
                        yield share_held(directory, name, count, busy, share, seconds)


def share_held(
    directory: Path, backend: str, cores: int, busy: bool, share: float, seconds: float, settings: dict = SHORT
) -> Held:
    """The share that one run holds for so many seconds."""
    what = f"{backend}, {cores} core{'s' * (cores > 1)}{', busy' * busy}"
    run = directory / f"{backend}-{cores}-{busy}-{share}"
    flags = ["--power", "full", "--max-cpu", f"{share:.0%}"]  # not nice: a polite run beside a hog gets less than asked
    with hog(busy, cores), training(run, backend, settings, flags, cores) as process:
        if not _begun(run, process):
            return Held(what, share, None, False, "training did not begin")
        time.sleep(min(3.0, seconds))  # what the start took is paid back
        before, began = _tree(process.pid)[0], time.monotonic()
        points = [(0.0, 0.0)]
        while (elapsed := time.monotonic() - began) < seconds:
            time.sleep(0.5)
            points.append((elapsed, _tree(process.pid)[0] - before))
        used, elapsed = _tree(process.pid)[0] - before, time.monotonic() - began
        worst = _worst(points, min(10.0, seconds / 2), cores, share)
    held = used / elapsed / cores
    return Held(what, share, held, abs(held - share) <= POINTS, f"at most {worst * 100:.0f} points off within 10 s")


def _worst(points: list[tuple[float, float]], window: float, cores: int, share: float) -> float:
    """The largest gap between the share of any `window` seconds and the one that was asked for."""
    gaps = [0.0]
    for time_a, used_a in points:
        later = next(((t, u) for t, u in points if t >= time_a + window), None)
        if later:
            gaps.append(abs((later[1] - used_a) / (later[0] - time_a) / cores - share))
    return max(gaps)


def ceilings_held(
    directory: Path, backends: Sequence[str], parts: Sequence[float] = (0.95, 0.8), settings: dict = LARGE
) -> Iterator[Held]:
    """The most resident memory of a run that wants more than its ceiling, in samples 20 ms apart."""
    for name in backends:
        wanted = _peak(directory / f"{name}-free", name, settings, [])[0]
        for part in parts:
            limit = int(wanted * part / 1e6) * 10**6
            flags = ["--max-memory", f"{limit // 10**6}MB"]
            peak, code, samples = _peak(directory / f"{name}-{part}", name, settings, flags)
            kept = peak <= limit and code in (0, 4)
            ended = "finished" if code == 0 else f"exit {code}"
            note = f"takes {wanted / 1e6:.0f} MB without; {ended}; {samples:,} samples"
            yield Held(f"{name}, memory", limit, peak, kept, note)


def _peak(run: Path, backend: str, settings: dict, flags: list[str]) -> tuple[int, int, int]:
    """(most resident bytes of all processes together, exit code, samples) of a short training."""
    peak = samples = 0
    with training(run, backend, settings, ["--power", "full", *flags], None) as process:
        while process.poll() is None:
            peak, samples = max(peak, _tree(process.pid)[1]), samples + 1
            time.sleep(0.02)
    return peak, process.returncode, samples


@contextmanager
def training(
    run: Path, backend: str, settings: dict, flags: Sequence[str], cores: int | None
) -> Iterator[subprocess.Popen]:
    """A pretraining of the tiny preset in processes of its own, on the first `cores` cores; stopped at the end."""
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "minigpt", "train", "pretrain", "--run", str(run), "--data", "world"]
    threads = str(cores or max(1, int(usable_cores())))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [*command, "--preset", "tiny", "--backend", backend, "--device", "cpu", *sets, *flags], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=lambda: _pin(cores),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


@contextmanager
def hog(wanted: bool, cores: int) -> Iterator[None]:
    """Another program that never rests, on the same cores."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=lambda: _pin(cores))
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _pin(cores: int | None) -> None:
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _begun(run: Path, process: subprocess.Popen, seconds: float = 300.0) -> bool:
    """Wait for the first training step."""
    journal, until = run / "pretrain" / "metrics.jsonl", time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        if journal.exists() and '"step": 1,' in journal.read_text("utf-8"):
            return True
        time.sleep(0.2)
    return False


def _tree(pid: int) -> tuple[float, int]:
    table = processes()
    return total(table, tree(table, pid))


def show(shares: list[Held], memory: list[Held]) -> None:
    """The tables of the handbook (limits.md)."""
    rows = [[r.what, f"{r.asked:.0%}", "–" if r.held is None else f"{r.held:.1%}", _word(r), r.note] for r in shares]
    tables.kept_table("CPU share of the whole process tree", ["run", "asked", "held", "", ""], rows, wrap=(4,))
    if memory:
        rows = [[r.what, f"{r.asked / 1e6:.0f} MB", f"{r.held / 1e6:.0f} MB", _word(r), r.note] for r in memory]
        title, columns = "Resident memory of the whole process tree", ["run", "ceiling", "most", "", ""]
        tables.kept_table(title, columns, rows, wrap=(4,))
    print(f"{platform.platform()}, Python {platform.python_version()}, {usable_cores():g} cores")


def _word(row: Held) -> str:
    return "kept" if row.kept else "NOT KEPT"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", default=",".join(BACKENDS), metavar="NAMES")
    parser.add_argument("--shares", default="25,50,75,90", metavar="PERCENTS")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
