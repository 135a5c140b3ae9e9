"""Stages that learn from their own answers, ended after a step, while they sample, or killed: bitwise the whole run."""

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

from .cuts import copied, stopped, uninterrupted
from .ordeal import Outcome, count, difference
from .processes import _kill

BEFORE = ("pretrain", "sft")
STEPS = 9
CUTS = 6  # of each way: three while it samples, three after a step
SPREAD = 37  # has no divisor in common with the 60 cuts: some of them are of all ways
TOKENS = 12  # that are sampled in any sampling: four answers
COMMON = {"steps": STEPS, "batch_size": 4, "save_every": 2, "keep_last": 2, "log_every": 1, "eval_every": 3,
          "max_tokens": 8, "learning_rate": 5e-3, "warmup_steps": 1, "eval_rows": 4,
          "rewards": ["length:20"]}  # fmt: skip
LORA = {"lora_rank": 4}
REFRESHED = {"updates": 2, "reference_every": 4, "kl_coefficient": 0.1, "redraws": 1}
OWN = {"grpo": {"group_size": 2}, "ppo": {}}
WAYS = {
    "ppo": [
        {}, {"value_model": "shared"}, LORA, LORA | {"value_model": "shared"}, {"grad_accumulation": 2},
        {"activation_checkpointing": True, "epochs": 3}, {"kl_target": 0.05, "kl_horizon": 40}, {"target_kl": 1e-4},
        {"whiten_rewards": True, "entropy_coefficient": 0.01, "mini_batches": 1}, {"optimizer": "muon", "dropout": 0.1},
    ],
    "grpo": [
        {}, {"updates": 2}, {"updates": 3}, LORA | REFRESHED, {"grad_accumulation": 2, "updates": 2},
        {"activation_checkpointing": True, "save_every": 1}, REFRESHED, {"loss": "cispo", "updates": 4},
        {"ratio": "sequence", "save_every": 4}, {"optimizer": "muon", "updates": 2, "entropy_coefficient": 0.01},
    ],
}  # fmt: skip


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
        if self.done >= self.step:
            self.drawn += 1
            if self.drawn > self.token:
                raise _Dead
        return sample(*given)


def every_cut(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """For each stage and backend ten ways of training, six cuts each: 60."""
    outcomes = []
    for name in backends:
        backend = get_backend(name, "cpu")
        base = _prepared(directory / name, backend)
        for stage, ways in WAYS.items():
            rng, outcome = random.Random(seed), Outcome(f"{stage} ended after a step or while it sampled, {name}")
            cuts = len(ways) * CUTS
            for number in range(count(cuts, scale)):
                way, cut = divmod(number * SPREAD % cuts, CUTS)
                lost = _cut(base, stage, backend, way, cut % 2 == 0, rng)
                outcome.check(not lost, f"{ways[way]}, {lost}")
            outcome.note = "weights, optimizer, value model and journal bit for bit, with kept answers and references"
            outcomes.append(outcome)
    return outcomes


def kills(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """SIGKILL at random moments of each stage, until the number is reached and the last run has ended."""
    outcomes = []
    for name in backends:
        base = _prepared(directory / f"{name}-kills", get_backend(name, "cpu"))
        for stage in WAYS:
            rng, outcome = random.Random(seed), Outcome(f"{stage} killed with SIGKILL, {name}")
            right, run = (copied(base, f"{stage}-{part}").directory for part in ("right", "killed"))
            _start(right, stage, name).wait()
            done = 0
            while (process := _start(run, stage, name)).poll() is None:
                if done == count(20, scale) or not _kill(process, run, rng):
                    process.wait()
                    break
                done += 1
            failed = process.stderr.read().decode()[-300:] if process.returncode else ""
            lost = failed or difference(run, right, (stage,))
            outcome.lost, outcome.tried = [lost] if lost else [], done
            outcome.note = "bitwise the undisturbed run"
            outcomes.append(outcome)
    return outcomes


def _prepared(directory: Path, backend: Backend) -> Run:
    """A run that was fine-tuned for two steps, with the data of what is to come. Its file has settings for a longer
    training, which processes read.
    """
    stages = (*BEFORE, *WAYS)
    config = tiny_config(stages, steps=2, batch_size=2, save_every=2, eval_every=2, warmup_steps=0)
    config = config.with_section("data", world_texts=60, world_lessons=0, world_instructions=60, world_pairs=30)
    run = Run(directory, config)
    make_tokenizer(run, BEFORE, silent)
    for stage in stages:
        make_data(run, stage, silent)
    for stage in BEFORE:
        train_stage(run, stage, backend, silent)
    longer = COMMON | {"steps": 2 * STEPS, "save_every": 3, "eval_every": 6}
    for stage, more in (("grpo", REFRESHED), ("ppo", {"kl_target": 0.05})):
        config = config.with_section(stage, **longer | OWN[stage] | more)
    (directory / "config.toml").write_text(to_toml(config), "utf-8")
    return run


def _cut(base: Run, stage: str, backend: Backend, way: int, sampling: bool, rng: random.Random) -> str:
    """What differs after an end in the middle of a sampling, or a stop after a step."""
    settings = COMMON | OWN[stage] | WAYS[stage][way]
    whole = uninterrupted(base, f"{stage}-whole-{way}", stage, backend, **settings)
    parts = copied(base, f"{stage}-cut", stage, **settings)
    if sampling:
        section = parts.config.of(stage)
        lasts = section.updates if stage == "grpo" else section.epochs * section.mini_batches  # steps of a sampling
        step = rng.choice(range(lasts, STEPS, lasts))
        wrong = _killed_while_sampling(parts, stage, backend, step, rng.randrange(TOKENS))
    else:
        step = rng.randrange(1, STEPS)
        wrong = stopped(parts, stage, backend, step)
    if not wrong:
        train_stage(parts, stage, backend, silent)
        wrong = difference(parts.directory, whole.directory, (stage,))
    return wrong and f"{'while it sampled ' if sampling else ''}after step {step}: {wrong}"


def _killed_while_sampling(run: Run, stage: str, backend: Backend, step: int, token: int) -> str:
    """What is wrong with how it ended, "" for nothing."""
    dying = _Dying(step, token)

    def report(event) -> None:
        if isinstance(event, Step):
            dying.done = event.step

    choice.sample = dying
    try:
        train_stage(run, stage, backend, report)
    except _Dead:
        return ""
    finally:
        choice.sample = sample
    return "it did not end"


def _start(run: Path, stage: str, backend: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "minigpt", "train", stage, "--run", run, "--no-supervise"]
    return subprocess.Popen([*map(str, command), "--backend", backend, "--device", "cpu"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
