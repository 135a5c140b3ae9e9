"""Kills and stops processes of a training by two, again and again: does it notice, and go on?"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.errors import CheckpointError
from minigpt.runs.heartbeat import DIRECTORY, read_beat, state_of
from minigpt.store.checkpoint import verify_checkpoint
from minigpt.store.stage import StageStore

NOTICED, AGAIN = 30.0, 300.0  # seconds: until the others have ended, and until steps are done again
SETTINGS = {
    "model.n_layer": 1, "model.d_model": 32, "model.n_head": 2, "model.n_kv_head": 1, "model.d_ff": 64,
    "model.context": 64, "tokenizer.vocab_size": 700, "data.world_texts": 120, "data.world_lessons": 0,
    "pretrain.steps": 1_000_000,
    "pretrain.batch_size": 4, "pretrain.eval_every": 1000, "pretrain.save_every": 5, "pretrain.eval_rows": 4,
    "pretrain.log_every": 1, "pretrain.learning_rate": 1e-4, "pretrain.matrix_learning_rate": 1e-4,
}  # fmt: skip


@dataclass
class Campaign:
    """What became of a training that was hit `tried` times."""

    backend: str
    tried: int = 0
    slowest: float = 0.0  # seconds until the surviving process had ended
    lost: list[str] = field(default_factory=list)


def campaign(directory: Path, backend: str, times: int, seed: int, shard: str = "none") -> Campaign:
    """Hit a training `times` times with SIGKILL or SIGSTOP; then ask it to stop and look at its checkpoints. `shard` is
    what the processes share out.
    """
    found, rng, run = Campaign(backend), random.Random(seed), directory / f"kills-{backend}"
    settings = SETTINGS | {"pretrain.shard": shard}
    words = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "minigpt", "train", "pretrain", "--run", str(run), "--preset", "tiny", "--data",
               "world", "--backend", backend, "--processes", "2", "--restarts", str(times + 5), *words]  # fmt: skip
    errors = directory / f"kills-{backend}.txt"
    with errors.open("w") as file, subprocess.Popen(command, stderr=file, env=_environment()) as process:
        old: list[int] = []
        for _ in range(times):
            pids = _going_on(run, process, old)
            if pids is None:
                found.lost.append(f"did not go on after hit {found.tried}")
                break
            time.sleep(rng.uniform(0.0, 1.5))
            victim, number = rng.randrange(2), rng.choice([signal.SIGKILL, signal.SIGSTOP])
            os.kill(pids[victim], number)
            found.tried += 1
            seconds = _until_gone(pids[1 - victim])
            found.slowest = max(found.slowest, seconds)
            if seconds >= NOTICED:
                found.lost.append(f"hit {found.tried}: {number.name} of rank {victim} was not noticed in 30 s")
            old = pids
        if _going_on(run, process, old) is None:
            found.lost.append("did not go on after the last hit")
        process.terminate()
        if process.wait(AGAIN) != 128 + signal.SIGTERM:
            found.lost.append(f"ended with {process.returncode} when asked to stop")
    found.lost += _broken(run)
    return found


def _going_on(run: Path, process: subprocess.Popen, old: list[int]) -> list[int] | None:
    """The ids of two processes that are not the `old` ones and have saved a checkpoint; None when it takes too long.

    Who dies twice without one in between gets less to do at a time, as if the memory had run out.
    """
    until, first = time.monotonic() + AGAIN, None
    store = StageStore(run / "pretrain")
    while time.monotonic() < until and process.poll() is None:
        beats = [read_beat(run / DIRECTORY / f"rank-{rank}.json") for rank in (0, 1)]
        if all(beat is not None and beat.ended is None and beat.pid not in old for beat in beats):
            step = store.steps_kept()
            first = step if first is None else first
            if step > first and all(state_of(beat.pid) == "there" for beat in beats):
                return [beat.pid for beat in beats]
        time.sleep(0.1)
    return None


def _until_gone(pid: int) -> float:
    began = time.monotonic()
    while time.monotonic() - began < NOTICED and state_of(pid) != "gone":
        time.sleep(0.1)
    return time.monotonic() - began


def _broken(run: Path) -> list[str]:
    """Checkpoints that are not whole, and journal lines that cannot be read."""
    broken, store = [], StageStore(run / "pretrain")
    if not store.checkpoints():
        return ["there is no checkpoint"]
    for path in store.checkpoints():
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            broken.append(error.message)
    steps = [json.loads(line)["step"] for line in store.journal.read_text("utf-8").splitlines() if '"loss"' in line]
    if steps != list(range(1, len(steps) + 1)):
        broken.append("the journal does not have each step once")
    return broken


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}
