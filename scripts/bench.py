#!/usr/bin/env python
"""MiniGPT beside the tools that a user would take instead: the same work, in turn, on this machine.

    python scripts/bench.py generation
    python scripts/bench.py shakespeare steps --nanogpt PATH --text tinyshakespeare.txt --rounds 5 --json bench.json
    python scripts/bench.py sft dpo --rows gsm8k.json

Prints medians and the ratio in MiniGPT's favour of each round (above 1: MiniGPT is ahead) with its spread. Run it
in the environment that scripts/test makes, on a machine that does nothing else.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comparisons import generation, mlx_training, nanogpt, tokenizing, tuning
from comparisons.duel import Duel, Result, fight, machine

from minigpt import tables

PEERS = ("transformers", "trl", "tokenizers", "mlx-lm", "xllamacpp", "sentencepiece")
COMPARISONS: dict[str, Callable[[argparse.Namespace], list[Duel]]] = {
    "generation": lambda given: generation.generation(),
    "tokenizing": lambda given: [tokenizing.tokenizing(given.text, given.megabytes)],
    "shakespeare": lambda given: [nanogpt.time_to_loss(given.nanogpt, given.text, given.recipe)],
    "steps": lambda given: [
        nanogpt.throughput(given.nanogpt, given.text, shape, given.steps or 30) for shape in nanogpt.SHAPES
    ],
    "mlx": lambda given: [mlx_training.mlx_training(shape, given.steps) for shape in mlx_training.SHAPES],
    "sft": lambda given: [tuning.tuning("sft", given.rows, given.steps)],
    "dpo": lambda given: [tuning.tuning("dpo", given.rows, given.steps)],
}
NEEDS_NANOGPT, NEEDS_TEXT = ("shakespeare", "steps"), ("shakespeare", "steps", "tokenizing")


def main() -> int:
    arguments = _arguments()
    results: list[Result] = []
    for name in arguments.comparisons:
        for duel in COMPARISONS[name](arguments):
            results += fight(duel, arguments.rounds)
    here = machine(*PEERS)
    if arguments.nanogpt:
        here["nanoGPT"] = _commit(arguments.nanogpt)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": here, "results": list(map(asdict, results))}, indent=1) + "\n")
    show(results, here)
    return 0


def show(results: list[Result], here: dict[str, str]) -> None:
    """The table, and under it what it was measured on."""
    columns = ["work", "figure", "MiniGPT", "peer", "peer's", "ratio", "of all rounds"]
    rows = [
        [
            result.work, result.figure, f"{result.ours:,.4g}", result.peer, f"{result.theirs:,.4g}",
            f"{result.median:.2f}", f"{min(result.ratios):.2f} – {max(result.ratios):.2f}",
        ]
        for result in results
    ]  # fmt: skip
    tables.table("Medians; ratios above 1 are in MiniGPT's favour", columns, rows)
    print(", ".join(f"{name} {value}" for name, value in here.items()))


def _commit(checkout: Path) -> str:
    """The commit of a peer that is a repository, as far as the path tells it."""
    import subprocess

    found = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or "commit unknown"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="+", choices=COMPARISONS)
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody runs")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, help="tinyshakespeare as one file")
    parser.add_argument("--rows", type=Path, help="conversations for sft and dpo in place of the built-in world's")
    parser.add_argument("--steps", type=int, help="training steps per run (default: 30; mlx, sft and dpo 10)")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--recipe", nargs="*", default=[], help="more flags for minigpt train, to try a recipe")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    given = parser.parse_args()
    for names, value, flag in ((NEEDS_NANOGPT, given.nanogpt, "--nanogpt"), (NEEDS_TEXT, given.text, "--text")):
        if value is None and set(names) & set(given.comparisons):
            parser.error(f"{' and '.join(sorted(set(names) & set(given.comparisons)))} need {flag}")
    return given


if __name__ == "__main__":
    sys.exit(main())
