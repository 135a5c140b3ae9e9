"""Trials: training runs of their own, some at a time, whose results are kept line by line as they come.

Each trial is a process that runs the command line in a run directory of its own. It ends, with a checkpoint, when this
process is gone; the same trial later goes on from there. So a sweep that is killed loses nothing but time.
"""

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minigpt.errors import MiniGPTError
from minigpt.events import Note, Progress, Report, silent
from minigpt.runs.supervise import SUPERVISED
from minigpt.store.lock import locked

RESULTS, TRIALS = "results.jsonl", "trials"
POLL = 0.1  # seconds between two looks at the processes
PARENT_DIED = 1  # prctl's name for the signal that Linux sends to a process whose parent dies


@dataclass(frozen=True)
class Setup:
    """What all trials have in common. `threads` each; `max_memory` is for all of them together."""

    stage: str = "pretrain"
    data: tuple[str, ...] = ()
    preset: str = "tiny"
    base: dict[str, Any] = field(default_factory=dict)
    backend: str = "auto"
    device: str = "auto"
    max_memory: str = ""
    measure: str = "validation_loss"
    pick: str = "best"  # of the measurements: the best, or the last
    jobs: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Trial:
    """One run: a label for people, the settings that differ from the base, and the seed."""

    label: str
    settings: dict[str, Any]
    seed: int

    def key(self, setup: Setup) -> str:
        """The same for the same command, whatever the label: names the directory and the result."""
        return hashlib.sha256(json.dumps(arguments(setup, self)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: its figure, or why it failed. `elapsed`: seconds of the whole sweep until then."""

    key: str
    label: str
    settings: dict[str, Any]
    seed: int
    value: float | None
    metrics: dict[str, float]
    seconds: float
    elapsed: float
    failed: str = ""


def arguments(setup: Setup, trial: Trial) -> list[str]:
    """The words after `minigpt` that train the trial, but for its run directory."""
    words = ["train", setup.stage, "--preset", setup.preset, "--seed", str(trial.seed)]
    words += [word for source in setup.data for word in ("--data", source)]
    settings = setup.base | trial.settings
    words += [word for name in sorted(settings) for word in ("--set", f"{name}={_written(settings[name])}")]
    words += ["--backend", setup.backend, "--device", setup.device]
    return words + (["--max-memory", setup.max_memory] if setup.max_memory else [])


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# ---- results on disk ---------------------------------------------------------------------------------------


def read_outcomes(directory: Path) -> dict[str, Outcome]:
    """Key -> outcome of all trials that have ended; a last line that was being written is removed."""
    path = directory / RESULTS
    if not path.exists():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    found = (Outcome(**json.loads(line)) for line in whole.splitlines())
    return {outcome.key: outcome for outcome in found}


def append_outcome(directory: Path, outcome: Outcome) -> None:
    """Add a line and wait until it is on the disk."""
    with (directory / RESULTS).open("ab") as file:
        file.write(json.dumps(asdict(outcome), ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


# ---- running -----------------------------------------------------------------------------------------------


class _Running:
    """A trial's process. It starts when nobody holds its directory, as a trial of a killed sweep does for a moment."""

    def __init__(self, directory: Path, setup: Setup, trial: Trial):
        self.trial, self.key, self.began = trial, trial.key(setup), time.monotonic()
        self.run = directory / TRIALS / self.key
        self.output = self.run.with_suffix(".txt")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, "-m", "minigpt", *arguments(setup, trial), "--run", str(self.run)]
        threads = {name: str(setup.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._environment = os.environ | threads | {SUPERVISED: "yes", "NO_COLOR": "1"}
        self.process: subprocess.Popen | None = None

    def ended(self) -> int | None:
        """The exit code, or None while it runs or waits."""
        if self.process is None and _free(self.run):
            with self.output.open("wb") as output:
                self.process = subprocess.Popen(
                    self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    preexec_fn=_ends_with_its_parent,
                )  # fmt: skip
        return None if self.process is None else self.process.poll()

    def said(self) -> str:
        """The last line that the process wrote."""
        lines = self.output.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1].removeprefix("minigpt: ") if lines else ""


def _free(run: Path) -> bool:
    """Whether no process trains in the directory."""
    try:
        with locked(run) if run.is_dir() else nullcontext():
            return True
    except MiniGPTError:
        return False


def _ends_with_its_parent() -> None:
    """In the child: ask Linux for a signal when the parent dies. Elsewhere a training looks now and then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGTERM)


def run_trials(
    directory: Path, setup: Setup, trials: Sequence[Trial], budget: float = float("inf"), report: Report = silent
) -> dict[str, Outcome]:
    """Key -> outcome of those trials that have ended, now or in an earlier call, after `budget` seconds at most.

    A trial that fails is an outcome like others. At the end of the budget, and when this is interrupted, the trials
    that run are asked to save and stop; they have no outcome yet.
    """
    outcomes = read_outcomes(directory)
    wanted = {trial.key(setup): trial for trial in trials}
    before = max((outcome.elapsed for outcome in outcomes.values()), default=0.0)
    waiting = [trial for key, trial in wanted.items() if key not in outcomes]
    began, running = time.monotonic(), []

    def elapsed() -> float:
        return before + time.monotonic() - began

    try:
        while running or (waiting and elapsed() < budget):
            while waiting and len(running) < setup.jobs and elapsed() < budget:
                running.append(_Running(directory, setup, waiting.pop(0)))
            for one in [one for one in running if one.ended() is not None]:
                running.remove(one)
                outcome = _outcome(setup, one, elapsed())
                append_outcome(directory, outcome)
                outcomes[outcome.key] = outcome
                if outcome.failed:
                    report(Note(f"{outcome.label}, seed {outcome.seed}: failed: {outcome.failed}"))
                done = sum(key in outcomes for key in wanted)
                report(Progress("trials", done, len(wanted), finished=done == len(wanted)))
            if elapsed() >= budget:
                break
            time.sleep(POLL)
    finally:
        _stop(running)
    return {key: outcomes[key] for key in wanted if key in outcomes}


def _outcome(setup: Setup, one: _Running, elapsed: float) -> Outcome:
    code, metrics, failed = one.process.returncode, {}, ""
    if code == 0:
        metrics = measured(one.run / setup.stage / "metrics.jsonl", setup.measure, setup.pick)
        failed = "" if metrics else f"its metrics.jsonl has no {setup.measure}"
    else:
        failed = one.said() or f"it ended with exit code {code}"
    value = metrics.get(setup.measure)
    seconds = round(time.monotonic() - one.began, 1)
    trial = one.trial
    return Outcome(one.key, trial.label, trial.settings, trial.seed, value, metrics, seconds, round(elapsed, 1), failed)


def measured(journal: Path, measure: str, pick: str = "best") -> dict[str, float]:
    """The measurement in a run's journal that has the lowest `measure`, or the last one; {} when there is none."""
    lines = journal.read_text("utf-8").splitlines() if journal.exists() else []
    rows = [row for row in map(json.loads, lines) if row.get("step") and isinstance(row.get(measure), float | int)]
    if not rows:
        return {}
    row = rows[-1] if pick == "last" else min(rows, key=lambda row: row[measure])
    return {name: value for name, value in row.items() if isinstance(value, float | int)}


def journal_of(directory: Path, setup: Setup, trial: Trial, name: str) -> list[float]:
    """All values of a name in the journal of a trial that has ended; [] where there are none."""
    journal = directory / TRIALS / trial.key(setup) / setup.stage / "metrics.jsonl"
    lines = journal.read_text("utf-8").splitlines() if journal.exists() else []
    return [row[name] for row in map(json.loads, lines) if isinstance(row.get(name), float | int)]


def _stop(running: Sequence[_Running]) -> None:
    processes = [one.process for one in running if one.process is not None]
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()
