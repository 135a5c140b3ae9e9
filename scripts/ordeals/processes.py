"""Real processes: killed at any moment, asked to stop by signals, and several at once for one run."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from minigpt.config import to_toml
from minigpt.stages.table import USUAL

from .ordeal import Outcome, count, difference, small_config

STEPS, FEWEST = 36, 9  # of each stage, in all tries and in a slice: several checkpoints


def kills(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """SIGKILL at random moments of whole pipelines, until the number is reached and the last one has ended."""
    outcomes = []
    for name in backends:
        rng, outcome = random.Random(seed), Outcome(f"killed with SIGKILL, {name}")
        right = _finished(directory, name, scale)
        done = saving = runs = 0
        while done < count(100, scale):
            runs += 1
            run = directory / f"{name}-{runs}"
            while (process := _start(run, name, directory, scale)).poll() is None:
                if done == count(100, scale) or not _kill(process, run, rng):
                    process.wait()
                    break
                done += 1
                saving += bool(list(run.glob("*/checkpoints/.step-*.tmp")))
            lost = difference(run, right) if process.returncode == 0 else process.stderr.read().decode()[-300:]
            outcome.lost += [f"run {runs}: {lost}"] if lost else []
        outcome.tried, outcome.note = done, f"{saving} during a save; {runs} runs, each bitwise the undisturbed one"
        outcomes.append(outcome)
    return outcomes


def _kill(process: subprocess.Popen, run: Path, rng: random.Random) -> bool:
    """Kill a process a moment after it began to train; False when it ended first."""
    before = _written(run)
    while _written(run) == before:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.6))
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


def _written(run: Path) -> tuple:
    """What changes with every step."""
    return tuple(path.stat().st_size for path in run.glob("*/metrics.jsonl"))


def signals(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """SIGINT and SIGTERM to the supervising process, one after another to the same run."""
    outcomes = []
    right = _finished(directory, backends[0], scale)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        rng, outcome = random.Random(seed), Outcome(f"asked to stop with {number.name}")
        runs = 0
        while outcome.tried < count(20, scale):
            runs += 1
            run = directory / f"{number.name}-{runs}"
            while (process := _start(run, backends[0], directory, scale, "--supervise")).poll() is None:
                if outcome.tried == count(20, scale) or not _interrupt(process, run, number, code, rng, outcome):
                    process.wait()
                    break
            lost = difference(run, right) if process.returncode == 0 else "the last process failed"
            outcome.lost += [f"run {runs}: {lost}"] if lost else []
        outcome.note = f"exit {code} with the step saved; {runs} runs, each bitwise the undisturbed one"
        outcomes.append(outcome)
    return outcomes


def _interrupt(process, run: Path, number: int, code: int, rng: random.Random, outcome: Outcome) -> bool:
    """Send a signal a moment after training began, and check the answer; False when the process ended first."""
    before = _written(run)
    while _written(run) == before:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.3))
    process.send_signal(number)
    said = process.communicate()[1].decode()
    if process.returncode == 0:  # it had just finished
        return True
    promised = re.search(r"Stopped during (\w+) after step ([\d,]+)", said)
    kept = promised is None or _has(run, promised[1], int(promised[2].replace(",", "")))
    outcome.check(process.returncode == code and kept and "Go on with: " in said, said[-300:])
    return True


def _has(run: Path, stage: str, step: int) -> bool:
    return (run / stage / "checkpoints" / f"step-{step:06d}" / "manifest.json").exists()


def races(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """Three processes begin with one run directory at the same moment: one trains, the others are told so."""
    outcome = Outcome("three processes at once for one run")
    right = _finished(directory, backends[0], scale)
    for number in range(count(20, scale)):
        run = directory / f"race-{number}"
        racers = [_start(run, backends[0], directory, scale) for _ in range(3)]
        said = [process.communicate()[1].decode() for process in racers]
        codes = sorted(process.returncode for process in racers)
        refused = sum("is in use" in text for text in said)
        # One that comes late finds everything finished, which is as good.
        lost = difference(run, right) if 0 in codes and codes.count(1) == refused and max(codes) <= 1 else str(said)
        outcome.check(not lost, f"race {number}: {lost[-300:]}")
    return [outcome]


def _finished(directory: Path, backend: str, scale: float) -> Path:
    """The undisturbed run of a backend, made once in a directory."""
    run = directory / f"{backend}-right"
    if not (run / USUAL[-1] / "final").exists():
        process = _start(run, backend, directory, scale)
        said = process.communicate()[1].decode()
        assert process.returncode == 0, said
    return run


def _start(
    run: Path, backend: str, directory: Path, scale: float, supervise: str = "--no-supervise"
) -> subprocess.Popen:
    """A whole pipeline in small; the same call again goes on with it."""
    config = directory / "small.toml"
    if not config.exists():
        steps = max(FEWEST, count(STEPS, scale))
        sizes = small_config(steps=steps, save_every=3, eval_every=min(15, steps), eval_rows=2, batch_size=2)
        config.write_text(to_toml(sizes.model_copy(update={"seed": 3})), "utf-8")
    command = [sys.executable, "-m", "minigpt", "run", "--config", config, "--run", run, supervise]
    return subprocess.Popen([*map(str, command), "--backend", backend, "--device", "cpu"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
