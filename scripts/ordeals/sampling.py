"""GRPO ended behind each of its steps and in the middle of its sampling, or killed: bitwise the uninterrupted run."""

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from backends import get_backend
from backends.base import Backend
from minigpt.config import to_toml
from minigpt.events import Step, silent
from minigpt.generate import choice
from minigpt.generate.sampling import sample
from minigpt.parity.trajectories import tiny_config
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage

from .cuts import copied, stopped
from .ordeal import Outcome, count, difference
from .processes import _kill

CUTS = 60
STEPS = 16
STAGE, BEFORE = "grpo", ("pretrain", "sft")
# Several steps learn from the same answers, and the reference changes: both must be found again.
SETTINGS = {"updates": 2, "reference_every": 4, "kl_coefficient": 0.1, "redraws": 1, "group_size": 2, "max_tokens": 8,
            "batch_size": 4, "rewards": ["length:20"], "learning_rate": 1e-2}  # fmt: skip

TOKENS = 12  # that are sampled in any step: four answers


class _Dead(BaseException):
    """What no handler of errors takes for one: the process is gone."""


@dataclass
class _Dying:
    """Ends the process, in its stand-in, at the `token`-th token that is sampled after step `step`."""

    step: int
    token: int
    done: int = 0
    drawn: int = 0

    def __call__(self, *given):
        if self.done == self.step:
            self.drawn += 1
            if self.drawn > self.token:
                raise _Dead
        return sample(*given)


def every_cut(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """Half of the cuts are behind a step, which is saved; half are in the middle of sampling."""
    outcomes = []
    for name in backends:
        backend, rng = get_backend(name, "cpu"), random.Random(seed)
        outcome = Outcome(f"GRPO ended behind a step or while it sampled, {name}")
        base = _prepared(directory / name, backend)
        whole = copied(base, "whole")
        train_stage(whole, STAGE, backend, silent)
        for number in range(count(CUTS, scale)):
            cut = 1 + (7 + number // 2) % (STEPS - 1)
            parts = copied(base, "cut")
            if number % 2 == 0:
                cut -= cut % SETTINGS["updates"]  # where new answers are sampled
                ended = _killed_while_sampling(parts, backend, cut, rng.randrange(TOKENS))
            else:
                ended = not stopped(parts, STAGE, backend, cut)
            train_stage(parts, STAGE, backend, silent)
            lost = difference(parts.directory, whole.directory, (STAGE,)) if ended else "it did not end"
            outcome.check(not lost, f"cut {number} at step {cut}: {lost}")
        outcome.note = "weights, optimizer and journal bit for bit, with kept answers and a reference that changes"
        outcomes.append(outcome)
    return outcomes


def kills(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """SIGKILL at random moments of GRPO, until the number is reached and the last run has ended."""
    outcomes = []
    for name in backends:
        rng, outcome = random.Random(seed), Outcome(f"GRPO killed with SIGKILL, {name}")
        base = _prepared(directory / f"{name}-kills", get_backend(name, "cpu"))
        right, run = (copied(base, part).directory for part in ("right", "killed"))
        _start(right, name).wait()
        done = 0
        while (process := _start(run, name)).poll() is None:
            if done == count(20, scale) or not _kill(process, run, rng):
                process.wait()
                break
            done += 1
        lost = difference(run, right, (STAGE,)) if process.returncode == 0 else process.stderr.read().decode()[-300:]
        outcome.lost, outcome.tried = [lost] if lost else [], done
        outcome.note = "bitwise the undisturbed run"
        outcomes.append(outcome)
    return outcomes


def _prepared(directory: Path, backend: Backend) -> Run:
    """A run whose first stages are trained, and the third's data is there."""
    sizes = {"steps": 4, "eval_every": 4, "save_every": 4, "log_every": 1, "eval_rows": 2}
    config = tiny_config((*BEFORE, STAGE), **sizes)
    config = config.with_section(STAGE, **SETTINGS | sizes | {"steps": STEPS, "save_every": 3})
    run = Run(directory, config)
    make_tokenizer(run, BEFORE, silent)
    for stage in (*BEFORE, STAGE):
        make_data(run, stage, silent)
    for stage in BEFORE:
        train_stage(run, stage, backend, silent)
    (directory / "config.toml").write_text(to_toml(config), "utf-8")
    return run


def _killed_while_sampling(run: Run, backend: Backend, step: int, token: int) -> bool:
    dying = _Dying(step, token)

    def report(event) -> None:
        if isinstance(event, Step):
            dying.done = event.step

    choice.sample = dying
    try:
        train_stage(run, STAGE, backend, report)
    except _Dead:
        return True
    finally:
        choice.sample = sample
    return False


def _start(run: Path, backend: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "minigpt", "train", STAGE, "--run", run, "--no-supervise"]
    return subprocess.Popen([*map(str, command), "--backend", backend, "--device", "cpu"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
