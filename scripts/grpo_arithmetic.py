#!/usr/bin/env python3
"""What GRPO makes of the demo's model: held-out arithmetic before and after, pass@k, and the other tasks.

    minigpt demo --run runs/demo
    python scripts/grpo_arithmetic.py runs/demo --seeds 3 --set grpo.steps=300

Asked are sums and differences of training; the combinations of numbers that the test asks for are never among them, and
neither are others that the same rule would hold out. `--wide N` adds sums of numbers up to N, which SFT never showed
(default: 0, none). Each seed trains a copy of the run and prints its lines; the last table has means and spread.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from backends import get_backend
from minigpt import library
from minigpt.cli import tables
from minigpt.cli.reporter import Reporter
from minigpt.config import load_config
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


def main() -> None:
    options = _options()
    backend = get_backend(options.backend, "cpu")
    before = open_run(options.run)
    first = measured(load_engine(before, options.start, backend), before.config.seed + 1)
    found = []
    for seed in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run"
            _copy(options.run, path, options.start)
            seconds = _train(path, seed, options)
            after = measured(load_engine(open_run(path), "grpo", backend), before.config.seed + 1)
        found.append(after | {"seconds": seconds})
        shown = {name: f"{first[name]:.1%} → {value:.1%}" for name, value in after.items()}
        told = ", ".join(f"{name} {text}" for name, text in shown.items())
        print(f"seed {seed}, {seconds:.0f} s: {told}", flush=True)
    show(first, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a demo's run, whose SFT stage is finished")
    parser.add_argument("--start", default="sft", help="the stage to start from")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--wide", type=int, default=0, help="also ask for sums of numbers up to this")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="grpo.KEY=VALUE")
    return parser.parse_args()


def prompts(seed: int, wide: int) -> Iterator[dict]:
    """Questions of arithmetic with their answers; every second one, with `wide`, of numbers up to that."""
    rng = random.Random(f"{seed} grpo")
    usual = tasks.MAX_OPERAND
    for number in range(10**9):
        tasks.MAX_OPERAND = wide if wide and number % 2 else usual
        try:
            exchange = tasks.arithmetic(rng, rng.choice(words.LANGUAGES))
        finally:
            tasks.MAX_OPERAND = usual
        if not tasks.held_out(exchange.asked):
            yield {"prompt": exchange.question, "answer": exchange.answer}


def _copy(source: Path, target: Path, start: str) -> None:
    """The run up to the stage that is started from."""
    target.mkdir()
    shutil.copy(source / "config.toml", target)
    shutil.copytree(source / "tokenizer", target / "tokenizer")
    shutil.copytree(source / start / "final", target / start / "final")


def _train(path: Path, seed: int, options: argparse.Namespace) -> float:
    """Seconds that training took, without the reading of the data."""
    file = path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in islice(prompts(seed, options.wide), PROMPTS)), "utf-8")
    section = load_config("tiny", None, options.sets).grpo.model_dump(exclude_unset=True)
    settings = {"seed": seed, "grpo": section}
    began = [time.perf_counter()]
    with Reporter() as report:

        def heard(event) -> None:
            if type(event).__name__ == "StageStarted":
                began[0] = time.perf_counter()
            report(event)

        library.train_stage("grpo", path, data=[str(file)], settings=settings, report=heard, backend=options.backend)
    return time.perf_counter() - began[0]


def measured(engine: Engine, seed: int) -> dict[str, float]:
    """The demo's measures, and for arithmetic the share of questions that one of K sampled answers gets right."""
    found = evaluate_world(engine, seed, TEST_ROWS)
    rows = [row for row in world.instructions(seed, TEST_ROWS, "test") if row["task"] == "arithmetic"]
    asked = [render(engine.tokenizer, question(row), generation_prompt=True)[0] for row in rows]
    right = np.zeros((len(rows), K), bool)
    for k in range(K):
        answers = engine.answer_each(asked, [Sampling(1.0, seed=1000 * k + i) for i in range(len(asked))], MAX_ANSWER)
        right[:, k] = [world.is_correct(row, answer.text) for row, answer in zip(rows, answers, strict=True)]
    return found | {"pass@1": float(right.mean()), f"pass@{K}": float(right.any(axis=1).mean())}


def show(first: dict[str, float], found: list[dict[str, float]]) -> None:
    rows = []
    for name, value in first.items():
        values = np.array([one[name] for one in found])
        spread = f"± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
        rows.append([name, f"{value:.1%}", f"{values.mean():.1%} {spread}", f"{100 * (values.mean() - value):+.1f}"])
    seconds = np.mean([one["seconds"] for one in found])
    tables.table(f"Held-out questions before and after GRPO ({len(found)} seeds, {seconds:.0f} s each)",
                 ["", "before", "after", "points"], rows)  # fmt: skip


if __name__ == "__main__":
    main()
