#!/usr/bin/env python3
"""What training beyond DPO is good for, over seeds: three tables, each a command that trains what it prints.

    python scripts/rl_results.py rules --task sorting --seeds 3      GRPO by a person's own reward, from a weak start
    python scripts/rl_results.py distill runs/demo --seeds 3         a student with a teacher, and the same one alone
    python scripts/rl_results.py manners runs/demo --seeds 3         reward model and PPO against DPO

`rules` makes its data and its model; the others start from a demo's run (minigpt demo --run runs/demo). Each seed
trains anew; the tables have means and spread. `--set STAGE.KEY=VALUE` changes a stage's settings: of `rules` pretrain
and grpo, of `distill` pretrain, sft and distill, of `manners` dpo, reward and ppo.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rl import checkers
from rl.starts import copied, show, trained

from backends import get_backend
from backends.base import Backend
from minigpt.config import load_config
from minigpt.demo import judged_accuracy
from minigpt.evaluate.world import evaluate_world
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.runs.loading import load_engine
from minigpt.runs.run import open_run
from minigpt.sections import StageConfig
from minigpt.text.chatml import render

K = 8
RANKED = "held-out pairs ranked right"
TEST = 200  # held-out prompts of a task of our own
TEST_ROWS = 300  # of the world, for each measure
LONGEST = 16  # tokens of an answer to a task of our own
TASKS = {"sorting": (checkers.sorting_rows, checkers.sorting),
         "countdown": (checkers.countdown_rows, checkers.countdown)}  # fmt: skip
# A model that has seen too little to be good at it, and a training by its own answers.
SMALL = {"n_layer": 3, "n_head": 4, "n_kv_head": 4, "d_model": 96, "d_ff": 256, "context": 96, "qk_norm": True}
WEAK = {"steps": 110, "batch_size": 16, "learning_rate": 3e-3, "eval_every": 110, "save_every": 110}
RULES = {"steps": 200, "batch_size": 64, "group_size": 8, "learning_rate": 3e-4, "warmup_steps": 5, "redraws": 1,
         "max_tokens": LONGEST, "kl_coefficient": 0.0, "eval_every": 100, "save_every": 100}  # fmt: skip
STUDENT = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 64, "d_ff": 176}
BEGIN = {"steps": 400, "eval_every": 400, "save_every": 400}
TAUGHT = {"steps": 600, "eval_every": 300, "save_every": 300}


def main() -> None:
    options = _options()
    backend = get_backend(options.backend, "cpu")
    {"rules": rules, "distill": distill, "manners": manners}[options.what](options, backend)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("rules", "distill", "manners"))
    parser.add_argument("run", type=Path, nargs="?", help="a demo's run, for distill and manners")
    parser.add_argument("--task", choices=tuple(TASKS), default="sorting")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=TEST_ROWS, help="held-out rows for each measure of the world")
    parser.add_argument("--given", type=int, help="conversations that a student is given (default: as many as the run)")
    parser.add_argument("--prompts", type=int, default=0, help="besides, that the teacher may answer")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="STAGE.KEY=VALUE")
    options = parser.parse_args()
    if options.what != "rules" and options.run is None:
        parser.error(f"{options.what} needs a demo's run")
    return options


def _section(options: argparse.Namespace, stage: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a stage with those of --set."""
    mine = [one for one in options.sets if one.startswith(f"{stage}.")]
    asked = {one.partition("=")[0].partition(".")[2] for one in mine}
    section = load_config("tiny", None, mine).of(stage).model_dump()
    return settings | {name: section[name] for name in asked}


# ---- a person's own reward


def rules(options: argparse.Namespace, backend: Backend) -> None:
    """A task with an exact checker, learned from rewards alone after a weak start; measured on held-out prompts."""
    draw, checker = TASKS[options.task]
    before, after = [], []
    for seed in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as directory:
            run, rows = Path(directory) / "run", list(islice(draw(0, held_out=True), TEST))
            shown, asked = (Path(directory) / name for name in ("shown.jsonl", "asked.jsonl"))
            _write(shown, islice(draw(seed, held_out=False), 2_000), "answer")
            _write(asked, islice(draw(-seed, held_out=False), 4_000), "numbers", "target")
            made = {"seed": seed, "model": SMALL, "tokenizer": {"kind": "char"}}
            weak = _section(options, "pretrain", WEAK)
            trained("pretrain", run, options.backend, [str(shown)], pretrain=weak, **made)
            before.append(_earned(load_engine(open_run(run), "pretrain", backend), rows, checker))
            _by_command(run, asked, f"{checkers.__file__}:{options.task}", _section(options, "grpo", RULES), options)
            after.append(_earned(load_engine(open_run(run), "grpo", backend), rows, checker))
        told = (f"{name} {value:.1%} → {after[-1][name]:.1%}" for name, value in before[-1].items())
        print(f"seed {seed}: {', '.join(told)}", flush=True)
    show(f"{options.task}: {TEST} held-out prompts before and after GRPO ({options.seeds} seeds)", list(before[0]),
         {"before": before, "after": after})  # fmt: skip


def _write(path: Path, rows: Iterator[dict], *names: str) -> None:
    """The prompts with those keys of the rows that are there."""
    kept = ({name: row[name] for name in ("prompt", *names) if name in row} for row in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), "utf-8")


def _by_command(run: Path, data: Path, reward: str, settings: dict[str, Any], options: argparse.Namespace) -> None:
    """`minigpt train grpo --reward FILE.py:NAME`, as a person gives it."""
    sets = [word for name, value in settings.items() for word in ("--set", f"grpo.{name}={json.dumps(value)}")]
    command = [sys.executable, "-m", "minigpt", "train", "grpo", "--run", run, "--data", data, "--reward", reward]
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command += [*sets, "--backend", options.backend, "--device", "cpu"]
    subprocess.run([*map(str, command)], check=True, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL)


def _earned(engine: Engine, rows: list[dict], checker) -> dict[str, float]:
    """Mean reward of greedy answers, share of right ones, and of prompts that one of K samples answers right."""
    ids = [_ids(engine, [{"role": "user", "content": row["prompt"]}]) for row in rows]
    prompts = [row["prompt"] for row in rows]

    def rewards(answers) -> np.ndarray:
        return np.array(checker(prompts, [answer.text for answer in answers], rows))

    greedy = rewards(engine.answer(ids, GREEDY, LONGEST))
    sampled = np.stack([
        rewards(engine.answer_each(ids, [Sampling(1.0, seed=1000 * k + i) for i in range(len(ids))], LONGEST))
        for k in range(K)
    ])  # fmt: skip
    right = {"reward": greedy, "right": greedy == 1, "pass@1": sampled == 1, f"pass@{K}": (sampled == 1).any(axis=0)}
    return {name: float(np.mean(values)) for name, values in right.items()}


def _ids(engine: Engine, messages: list[dict]) -> list[int]:
    return render(engine.tokenizer, messages, generation_prompt=True)[0]


# ---- a teacher


def distill(options: argparse.Namespace, backend: Backend) -> None:
    """A smaller model after the same pretraining: taught by the given answers alone, and by the run's SFT as a teacher,
    which may answer --prompts more (distill.teacher_answers); the same given rows, steps, rates and optimizer.
    """
    teacher = open_run(options.run)
    usual = {name: getattr(teacher.config.sft, name) for name in StageConfig.model_fields}
    taught = _section(options, "sft", usual | TAUGHT)
    given = options.given or teacher.config.data.world_instructions
    alone, helped = [], []
    for seed in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "student"
            copied(options.run, path, [], seed, world_instructions=given, world_prompts=options.prompts)
            begin = _section(options, "pretrain", BEGIN)
            trained("pretrain", path, options.backend, model=STUDENT, pretrain=begin)
            seconds = trained("sft", path, options.backend, sft=taught)
            alone.append(_measured(path, "sft", options, backend) | {"seconds": seconds})
            (path / "sft").rename(Path(directory) / "alone")  # so that distill starts from pretrain, too
            section = _section(options, "distill", taught | {"teacher": f"{options.run.resolve()}/sft"})
            seconds = trained("distill", path, options.backend, ["world"], distill=section)
            helped.append(_measured(path, "distill", options, backend) | {"seconds": seconds})
        told = f"alone {alone[-1]['exact_match']:.1%}, with a teacher {helped[-1]['exact_match']:.1%}"
        print(f"seed {seed}: exact match {told}", flush=True)
    found = {"teacher": [_measured(options.run, "sft", options, backend)], "alone": alone, "with a teacher": helped}
    show(f"Held-out questions: a student of {STUDENT['n_layer']} layers, width {STUDENT['d_model']} "
         f"({options.seeds} seeds, {taught['steps']} steps)", list(alone[0]), found)  # fmt: skip


def _measured(path: Path, stage: str, options: argparse.Namespace, backend: Backend) -> dict[str, float]:
    """The world's measures, on the rows that the demo's own test asks."""
    engine = load_engine(open_run(path), stage, backend)
    return evaluate_world(engine, open_run(options.run).config.seed + 1, options.rows)


# ---- manners


def manners(options: argparse.Namespace, backend: Backend) -> None:
    """From the run's SFT: DPO on pairs, and PPO with a reward model that learned from the same pairs."""
    found: dict[str, list[dict]] = {"SFT": [_measured(options.run, "sft", options, backend)], "DPO": [], "PPO": [],
                                    "reward model": []}  # fmt: skip
    for seed in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run"
            copied(options.run, path, ["sft"], seed)
            for stage in ("reward", "ppo", "dpo"):
                section = {stage: _section(options, stage, {})}
                seconds = {"seconds": trained(stage, path, options.backend, ["world"], **section)}
                if stage in ("ppo", "dpo"):
                    found[stage.upper()].append(_measured(path, stage, options, backend) | seconds)
            ranked = {RANKED: judged_accuracy(open_run(path), "reward", backend)}
            found["reward model"].append(ranked)
        told = ", ".join(f"{name} {one[-1]['manner']:.1%} (exact match {one[-1]['exact_match']:.1%})"
                         for name, one in found.items() if "manner" in one[-1])  # fmt: skip
        print(f"seed {seed}: ranked right {ranked[RANKED]:.1%}; manner {told}", flush=True)
    show(f"Manners: PPO with a reward model against DPO ({options.seeds} seeds)", [*found["DPO"][0], RANKED], found)


if __name__ == "__main__":
    main()
