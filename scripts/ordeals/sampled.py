"""Stages that learn from their own answers, stopped after each of their steps: bitwise the uninterrupted run."""

from pathlib import Path

from backends import get_backend
from backends.base import Backend
from minigpt.events import silent
from minigpt.parity.trajectories import tiny_config
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage

from .cuts import copied, stopped, uninterrupted
from .ordeal import Outcome, count, difference

STEPS = 7  # so many less one are the cuts of each way
SPREAD = 37  # has no divisor in common with the 60 cuts: some of them are of all ways and steps
COMMON = {"steps": STEPS, "batch_size": 4, "save_every": 1, "keep_last": 9, "log_every": 1, "eval_every": STEPS,
          "max_tokens": 8, "learning_rate": 5e-3, "warmup_steps": 1, "eval_rows": 4}  # fmt: skip
LORA = {"lora_rank": 4}
WAYS = {
    "ppo": [
        {}, {"value_model": "shared"}, LORA, LORA | {"value_model": "shared"}, {"grad_accumulation": 2},
        {"activation_checkpointing": True, "epochs": 3}, {"kl_target": 0.05, "kl_horizon": 40}, {"target_kl": 1e-4},
        {"whiten_rewards": True, "entropy_coefficient": 0.01, "mini_batches": 1}, {"optimizer": "muon", "dropout": 0.1},
    ],
    "grpo": [
        {}, {"updates": 2}, {"updates": 3}, LORA | {"updates": 2}, {"grad_accumulation": 2, "updates": 2},
        {"activation_checkpointing": True}, {"redraws": 1}, {"loss": "cispo", "updates": 4}, {"ratio": "sequence"},
        {"optimizer": "muon", "updates": 2},
    ],
}  # fmt: skip
OWN = {"ppo": {"rewards": ["length:20"]}, "grpo": {"rewards": ["length:20"], "group_size": 2}}


def every_sampled_cut(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """For each stage and backend ten ways of training, each cut after all of its steps: 60 cuts."""
    outcomes = []
    for name in backends:
        backend = get_backend(name, "cpu")
        base = _prepared(directory / name, backend)
        for stage, ways in WAYS.items():
            outcome = Outcome(f"{stage} stopped after a step and started again, {name}")
            cuts = [(way, cut) for way in range(len(ways)) for cut in range(1, STEPS)]
            for number in range(count(len(cuts), scale)):
                way, cut = cuts[number * SPREAD % len(cuts)]
                lost = _cut(base, stage, backend, way, cut)
                outcome.check(not lost, f"{stage}, cut {cut}, {ways[way]}: {lost}")
            outcome.note = "weights, optimizer, value model, journal bit for bit"
            outcomes.append(outcome)
    return outcomes


def _prepared(directory: Path, backend: Backend) -> Run:
    """A run that was fine-tuned for two steps."""
    stages = ("pretrain", "sft", *WAYS)
    config = tiny_config(stages, steps=2, batch_size=2, save_every=2, eval_every=2, warmup_steps=0)
    small = {"world_texts": 60, "world_instructions": 60, "world_pairs": 30}
    run = Run(directory, config.with_section("data", **small))
    make_tokenizer(run, ("pretrain", "sft"), silent)
    for stage in stages:
        make_data(run, stage, silent)
        if stage not in WAYS:
            train_stage(run, stage, backend, silent)
    return run


def _cut(base: Run, stage: str, backend: Backend, way: int, cut: int) -> str:
    """What differs after a stop at a step."""
    settings = COMMON | OWN[stage] | WAYS[stage][way]
    whole = uninterrupted(base, f"{stage}-whole-{way}", stage, backend, **settings)
    parts = copied(base, f"{stage}-cut", stage, **settings)
    if wrong := stopped(parts, stage, backend, cut):
        return wrong
    train_stage(parts, stage, backend, silent)
    return difference(parts.directory, whole.directory, (stage,))
