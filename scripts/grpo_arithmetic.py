#!/usr/bin/env python3
"""What GRPO makes of the demo's model: held-out arithmetic before and after, pass@k, and the other tasks.

    minigpt demo --run runs/demo
    python scripts/grpo_arithmetic.py runs/demo --seeds 3

SFT showed five sixths of all pairs of numbers up to 20, with their sums and differences, and of larger ones up to 40 in
all; the test asks for the other pairs up to 20, which are never among the questions here (nor are larger pairs that the
same rule holds out). `--larger X` is the share of the sums that are asked of larger numbers. `--others X` makes a share
X of the prompts questions of training for the other tasks, with their exact answers, so that these are kept. The
settings of `grpo` are SETTINGS, below, and what --set changes of them.

Each seed trains a copy of the run and prints its lines; the last table has means and spread. Printed as well is what
share of each kind of prompt is answered right, and for what share of them K samples are neither all right nor all
wrong: only those teach anything.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rl.starts import copied, show, trained

from backends import get_backend
from minigpt.config import load_config
from minigpt.data.forms import FRESH
from minigpt.data.world import rows as world
from minigpt.data.world import tasks, words
from minigpt.evaluate.world import MAX_ANSWER, evaluate_world, greedy_answers, question
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import Sampling
from minigpt.runs.loading import load_engine
from minigpt.runs.run import open_run
from minigpt.text.chatml import render

K = 8
PROMPTS = 8_000
TEST_ROWS = 1500
SUMS_OF = 6000  # rows, of which 1,036 are held-out sums
SAMPLED = 200  # of these
LOOKED_AT = 100  # prompts of each kind
SETTINGS = [f"grpo.{one}" for one in (
    "steps=250", "batch_size=256", "learning_rate=2e-5", "kl_coefficient=0.03", "temperature=1.2", "redraws=1",
    "eval_every=50", "eval_rows=400",
)]  # fmt: skip


def main() -> None:
    options = _options()
    backend = get_backend(options.backend, "cpu")
    before = open_run(options.run)
    engine, seed = load_engine(before, options.start, backend), before.config.seed + 1
    first = [measured(engine, seed) | asked(engine)]
    found = []
    for number in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run"
            copied(options.run, path, [options.start], number)
            section = load_config("tiny", None, [*SETTINGS, *options.sets]).grpo.model_dump(exclude_unset=True)
            data = [str(_prompts(path, number, options))]
            seconds = trained("grpo", path, options.backend, data, grpo=section)
            engine = load_engine(open_run(path), "grpo", backend)
            found.append(measured(engine, seed) | asked(engine) | {"seconds": seconds})
        told = ", ".join(f"{name} {value:.1%} → {found[-1][name]:.1%}" for name, value in first[0].items())
        print(f"seed {number}, {seconds:.0f} s: {told}", flush=True)
    show(f"Held-out questions before and after GRPO ({len(found)} seeds)", list(found[0]),
         {"before": first, "after": found})  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a demo's run, whose SFT stage is finished")
    parser.add_argument("--start", default="sft", help="the stage to start from")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--larger", type=float, default=0.5, metavar="X", help="share of larger numbers in the sums")
    parser.add_argument("--others", type=float, default=0.3, metavar="X", help="share of prompts of the other tasks")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="grpo.KEY=VALUE")
    return parser.parse_args()


def prompts(seed: int, larger: float, others: float) -> Iterator[dict]:
    """Questions with their answers: of the other tasks, and of arithmetic, usual ones and such of larger numbers."""
    rng, kept = random.Random(f"{seed} grpo"), other_tasks(seed)
    while True:
        if rng.random() < others:
            yield next(kept)
        else:
            yield asked_sum(rng, tasks.larger_sum if rng.random() < larger else tasks.drawn_sum)


def asked_sum(rng: random.Random, draw: Callable[[random.Random], tasks.Sum]) -> dict:
    """A sum or difference that training may ask for."""
    while tasks.held_out((exchange := tasks.arithmetic(rng, rng.choice(words.LANGUAGES), draw)).asked):
        pass
    return {"prompt": exchange.question, "answer": exchange.answer}


def other_tasks(seed: int) -> Iterator[dict]:
    """Training questions of the other tasks, other ones than SFT learned from."""
    for row in world.instructions(seed + FRESH, 10**9, "train"):
        if row["task"] != "arithmetic" and len(row["messages"]) == 2:
            yield {"prompt": row["messages"][0]["content"], "answer": row["messages"][1]["content"]}


def _prompts(path: Path, seed: int, options: argparse.Namespace) -> Path:
    file = path / "prompts.jsonl"
    rows = islice(prompts(seed, options.larger, options.others), PROMPTS)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def asked(engine: Engine) -> dict[str, float]:
    """For each kind of sum that GRPO asks: the share of sampled answers that are right, and of prompts that teach."""
    found = {}
    for name, draw in {"usual sums": tasks.drawn_sum, "larger sums": tasks.larger_sum}.items():
        rng = random.Random("looked at")
        rows = [asked_sum(rng, draw) for _ in range(LOOKED_AT)]
        right = sampled(engine, [[{"role": "user", "content": row["prompt"]}] for row in rows],
                        lambda n, text, rows=rows: text.strip() == rows[n]["answer"])  # fmt: skip
        found[f"{name}: pass@1"] = float(right.mean())
        found[f"{name}: prompts that teach"] = float((right.any(axis=1) & ~right.all(axis=1)).mean())
    return found


def measured(engine: Engine, seed: int) -> dict[str, float]:
    """The demo's measures, and the shares of held-out sums answered right: greedily, by one of 1 and of K samples."""
    rows = [row for row in world.instructions(seed, SUMS_OF, "test") if row["task"] == "arithmetic"]
    greedy = [world.is_correct(row, text) for row, text in zip(rows, greedy_answers(engine, rows), strict=True)]
    right = sampled(engine, [question(row) for row in rows[:SAMPLED]], lambda n, text: world.is_correct(rows[n], text))
    passed = {"greedy": np.mean(greedy), "pass@1": right.mean(), f"pass@{K}": right.any(axis=1).mean()}
    return evaluate_world(engine, seed, TEST_ROWS) | {f"held-out sums: {name}": float(x) for name, x in passed.items()}


def sampled(engine: Engine, asked: list[list[dict]], check: Callable[[int, str], bool]) -> np.ndarray:
    """(N, K) bool: whether each of K answers to N conversations, sampled at temperature 1, is right."""
    ids, right = [_ids(engine, messages) for messages in asked], np.zeros((len(asked), K), bool)
    for k in range(K):
        samplings = [Sampling(1.0, seed=1000 * k + i) for i in range(len(ids))]
        answers = engine.answer_each(ids, samplings, MAX_ANSWER)
        right[:, k] = [check(n, answer.text) for n, answer in enumerate(answers)]
    return right


def _ids(engine: Engine, messages: list[dict]) -> list[int]:
    return render(engine.tokenizer, messages, generation_prompt=True)[0]


if __name__ == "__main__":
    main()
