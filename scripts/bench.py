#!/usr/bin/env python
"""MiniGPT beside the tools that a user would take instead: the same work, in turn, on this machine.

    python scripts/bench.py generation serving
    python scripts/bench.py shakespeare steps --nanogpt PATH --text tinyshakespeare.txt --rounds 5 --json bench.json
    python scripts/bench.py sft dpo --rows gsm8k.json --json scripts/comparisons/results/tuning.json
    python scripts/bench.py grpo --run runs/demo --peer PATH/bin/python --rounds 3
    python scripts/bench.py --readme

Prints medians and the ratio in MiniGPT's favour of each round (above 1: MiniGPT is ahead) with its spread. Run it
in the environment that scripts/test makes, on a machine that does nothing else. sft and dpo need `pip install trl`,
grpo an environment of its own with it. nanoGPT is a checkout: git clone https://github.com/karpathy/nanoGPT, commit
3adf61e154c3fe3fca428ad6bc3818b27a3b8291.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comparisons import (
    batching,
    generation,
    growth,
    mlx_training,
    nanogpt,
    profiles,
    report,
    rollouts,
    serving,
    speculative,
    startup,
    tokenizing,
    tuning,
)
from comparisons.duel import Duel, commit, fight, machine

from backends import BACKENDS
from minigpt.cli import tables

RESULTS = report.RESULTS.relative_to(report.ROOT)
PEERS = ("transformers", "trl", "tokenizers", "mlx-lm", "xllamacpp", "sentencepiece")
COMPARISONS: dict[str, Callable[[argparse.Namespace], Iterable[Duel | dict[str, Any]]]] = {
    "generation": lambda given: generation.generation(),
    "batch": lambda given: [batching.batching(backend) for backend in BACKENDS],
    "speculative": lambda given: [speculative.speculative(backend, given.steps) for backend in BACKENDS],
    "tokenizing": lambda given: [tokenizing.tokenizing(given.text, given.megabytes)],
    "shakespeare": lambda given: [nanogpt.time_to_loss(given.nanogpt, given.text, given.recipe)],
    "recipes": lambda given: [nanogpt.alone(name, given.text, given.recipe) for name in nanogpt.ALONE],
    "steps": lambda given: nanogpt.throughputs(given.nanogpt, given.text, given.device, given.steps or 30),
    "mlx": lambda given: [mlx_training.mlx_training(shape, given.steps) for shape in mlx_training.SHAPES],
    "startup": lambda given: startup.startup(),
    "growth": lambda given: growth.growth(),
    "profile": lambda given: profiles.profiles(),
    "sft": lambda given: [tuning.tuning("sft", given.rows, given.steps)],
    "dpo": lambda given: [tuning.tuning("dpo", given.rows, given.steps)],
    "serving": lambda given: serving.serving(given.seconds),
    "grpo": lambda given: [rollouts.rollouts(given.run, given.peer, steps=given.steps)],
}
PACKAGES = {  # the peers that come as one
    "generation": ["transformers", "mlx-lm", "xllamacpp"],
    "serving": ["mlx-lm", "xllamacpp"],
    "tokenizing": ["tokenizers"],
    "mlx": ["mlx-lm"],
    "startup": ["transformers", "mlx-lm", "trl"],
    "sft": ["trl"],
    "dpo": ["trl"],
}
NEEDS_NANOGPT, NEEDS_TEXT = ("shakespeare", "steps"), ("shakespeare", "recipes", "steps", "tokenizing")


def main() -> int:
    arguments = _arguments()
    found = {"machine": machine(*PEERS, device=arguments.device), "commit": commit(report.ROOT)}
    found |= {"results": [], "growth": [], "profiles": []}
    for name in arguments.comparisons:
        for piece in COMPARISONS[name](arguments):
            if isinstance(piece, Duel):
                found["results"] += map(asdict, fight(piece, arguments.rounds))
            else:
                found["profiles" if "rows" in piece else "growth"].append(piece)
            if arguments.json:  # behind each piece: a later one that fails loses nothing
                arguments.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if arguments.comparisons:
        show(found)
    if arguments.readme:
        report.write_pages()
    return 0


def show(found: dict[str, Any]) -> None:
    """The table, and under it what it was measured on."""
    title = "Medians; ratios above 1 are in MiniGPT's favour"
    tables.kept_table(title, report.DUELS, report.duel_rows(found["results"]))
    for curve in found["growth"]:
        tables.kept_table(curve["what"], *report.growth_table(curve))
    for profile in found["profiles"]:
        tables.kept_table(profile["what"], report.PROFILE, report.profile_rows(profile))
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", metavar="COMPARISON", help=", ".join(COMPARISONS))
    parser.add_argument("--rounds", type=int, default=3, help="how often everybody runs")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, help="tinyshakespeare as one file")
    parser.add_argument("--rows", type=Path, help="conversations for sft and dpo in place of the built-in world's")
    parser.add_argument("--run", type=Path, help="a run with an SFT stage, from which grpo starts")
    parser.add_argument("--peer", help="the Python of an environment with TRL 1.16, for grpo")
    parser.add_argument("--steps", type=int, help="training steps per run (default: 30; speculative 200; else 10)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where `steps` trains")
    parser.add_argument("--seconds", type=float, default=10, help="of each number of clients, for serving")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--recipe", nargs="*", default=[], help="more flags for minigpt train, to try a recipe")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--readme", action="store_true", help=f"write the tables of the pages, from {RESULTS}")
    given = parser.parse_args()
    if not given.comparisons and not given.readme:
        parser.error(f"name a comparison ({', '.join(COMPARISONS)}), or --readme")
    if unknown := set(given.comparisons) - set(COMPARISONS):
        parser.error(f"there is no comparison {', '.join(sorted(unknown))}; there are {', '.join(COMPARISONS)}")
    here = machine(*PEERS)
    wanted = {package for name in given.comparisons for package in PACKAGES.get(name, [])}
    if missing := sorted(package for package in wanted if here[package] == "not installed"):
        parser.error(f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}")
    needed = ((NEEDS_NANOGPT, given.nanogpt, "--nanogpt"), (NEEDS_TEXT, given.text, "--text"),
              (("grpo",), given.run, "--run"), (("grpo",), given.peer, "--peer"))  # fmt: skip
    for names, value, flag in needed:
        if value is None and set(names) & set(given.comparisons):
            parser.error(f"{' and '.join(sorted(set(names) & set(given.comparisons)))} need {flag}")
    return given


if __name__ == "__main__":
    sys.exit(main())
