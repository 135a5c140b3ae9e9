#!/usr/bin/env python3
"""What GRPO makes of the demo's model: held-out arithmetic before and after, pass@k, and the other tasks.

    minigpt demo --run runs/demo
    python scripts/grpo_arithmetic.py runs/demo --seeds 3 --wide 30 --others 0.2 --set grpo.redraws=3

SFT showed five sixths of all pairs of numbers up to 20, with their sums and differences; the test asks for the other
pairs, which are never among the questions here (nor are larger pairs that the same rule would hold out). On the pairs
that it was shown a model is sharpened, until all answers to a prompt earn the same, and learns nothing new. What it may
learn from are questions whose answers it was never shown. `--wide N` asks them in every second prompt: sums a + b = c
and differences c - a = b in which a or b is above 20, and c is at most N. `--others X` makes a share X of the prompts
questions of training for the other tasks, with their exact answers, so that these are kept.

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
from minigpt.evaluate.world import MAX_ANSWER, evaluate_world, question
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import Sampling
from minigpt.runs.loading import load_engine
from minigpt.runs.run import open_run
from minigpt.text.chatml import render

K = 8
PROMPTS = 8_000
TEST_ROWS = 300
LOOKED_AT = 100  # prompts of each kind


def main() -> None:
    options = _options()
    backend = get_backend(options.backend, "cpu")
    before = open_run(options.run)
    engine, seed = load_engine(before, options.start, backend), before.config.seed + 1
    first = [measured(engine, seed) | asked(engine, options)]
    found = []
    for number in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run"
            copied(options.run, path, [options.start], number)
            section = load_config("tiny", None, options.sets).grpo.model_dump(exclude_unset=True)
            data = [str(_prompts(path, number, options))]
            seconds = trained("grpo", path, options.backend, data, grpo=section)
            engine = load_engine(open_run(path), "grpo", backend)
            found.append(measured(engine, seed) | asked(engine, options) | {"seconds": seconds})
        told = ", ".join(f"{name} {value:.1%} → {found[-1][name]:.1%}" for name, value in first[0].items())
        print(f"seed {number}, {seconds:.0f} s: {told}", flush=True)
    show(f"Held-out questions before and after GRPO ({len(found)} seeds)", list(found[0]),
         {"before": first, "after": found})  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a demo's run, whose SFT stage is finished")
    parser.add_argument("--start", default="sft", help="the stage to start from")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--wide", type=int, default=0, metavar="N", help="also ask for sums up to N of larger numbers")
    parser.add_argument("--others", type=float, default=0.0, metavar="X", help="share of prompts of the other tasks")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="grpo.KEY=VALUE")
    options = parser.parse_args()
    if options.wide and not options.wide > tasks.MAX_OPERAND:
        parser.error(f"--wide is above {tasks.MAX_OPERAND}: smaller numbers are those that SFT showed")
    return options


def prompts(seed: int, wide: int, others: float = 0.0) -> Iterator[dict]:
    """Questions with their answers: of the other tasks, and of arithmetic the usual and the wide ones by turns."""
    rng, kept = random.Random(f"{seed} grpo"), other_tasks(seed)
    for number in range(10**9):
        if rng.random() < others:
            yield next(kept)
        else:
            yield _row(wide_sum(rng, wide) if wide and number % 2 else usual_sum(rng))


def usual_sum(rng: random.Random) -> tasks.Exchange:
    """A sum or difference of two numbers that SFT was shown together."""
    while tasks.held_out((exchange := tasks.arithmetic(rng, rng.choice(words.LANGUAGES))).asked):
        pass
    return exchange


def wide_sum(rng: random.Random, most: int) -> tasks.Exchange:
    """One of numbers that no row of the world has together, as one of them is above the world's; their sum is at most
    `most`.
    """
    usual = tasks.MAX_OPERAND
    tasks.MAX_OPERAND = most
    try:
        while True:
            exchange = tasks.arithmetic(rng, rng.choice(words.LANGUAGES))
            pair = [int(part) for part in exchange.asked[1:]]
            if max(pair) > usual and sum(pair) <= most and not tasks.held_out(exchange.asked):
                return exchange
    finally:
        tasks.MAX_OPERAND = usual


def other_tasks(seed: int) -> Iterator[dict]:
    """Training questions of the other tasks, other ones than SFT learned from."""
    for row in world.instructions(seed + FRESH, 10**9, "train"):
        if row["task"] != "arithmetic" and len(row["messages"]) == 2:
            yield {"prompt": row["messages"][0]["content"], "answer": row["messages"][1]["content"]}


def _row(exchange: tasks.Exchange) -> dict:
    return {"prompt": exchange.question, "answer": exchange.answer}


def _prompts(path: Path, seed: int, options: argparse.Namespace) -> Path:
    file = path / "prompts.jsonl"
    rows = islice(prompts(seed, options.wide, options.others), PROMPTS)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def asked(engine: Engine, options: argparse.Namespace) -> dict[str, float]:
    """For each kind of sum that GRPO asks: the share of sampled answers that are right, and of prompts that teach."""
    kinds = {"usual": usual_sum} | ({"wide": lambda rng: wide_sum(rng, options.wide)} if options.wide else {})
    found = {}
    for name, draw in kinds.items():
        rng = random.Random("looked at")
        rows = [_row(draw(rng)) for _ in range(LOOKED_AT)]
        right = sampled(engine, [[{"role": "user", "content": row["prompt"]}] for row in rows],
                        lambda n, text, rows=rows: text.strip() == rows[n]["answer"])  # fmt: skip
        found[f"{name} sums: pass@1"] = float(right.mean())
        found[f"{name} sums: prompts that teach"] = float((right.any(axis=1) & ~right.all(axis=1)).mean())
    return found


def measured(engine: Engine, seed: int) -> dict[str, float]:
    """The demo's measures, and for arithmetic the share of questions that one of K sampled answers gets right."""
    rows = [row for row in world.instructions(seed, TEST_ROWS, "test") if row["task"] == "arithmetic"]
    right = sampled(engine, [question(row) for row in rows], lambda n, text: world.is_correct(rows[n], text))
    passed = {"held-out sums: pass@1": float(right.mean()), f"held-out sums: pass@{K}": float(right.any(axis=1).mean())}
    return evaluate_world(engine, seed, TEST_ROWS) | passed


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
