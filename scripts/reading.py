#!/usr/bin/env python3
"""What makes the small model read, and when: the preset tiny on the built-in world, one change at a time, over seeds.

    python scripts/reading.py --seeds 2 --out reading.md                          all rows: 15 CPU minutes each
    python scripts/reading.py --only "as it is" "random first weights" --every 100

To read is to bind: "Tom is in the park. Lily is in the zoo. Where is Lily?" has two places, and one of them is hers.
The binding score asks for that alone. A text has three facts; an answer has the word of the fact that is asked for, or
of another one. Where two such answers first differ, is the right one's token the likelier? 0 is guessing, 1 is always.
(Whole answers would tell less: "Lily is in the park" is unlikely after "Lily is in the zoo", whoever was asked for.) It
is taken as training goes on, in the form of each stage: lines of text in pretraining, a conversation in SFT. The table
has it beside the demo's five tasks (exact match on held-out combinations). Trainings are kept in --directory, so that
the same command goes on where it was interrupted.
"""

import argparse
import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np

from backends import get_backend
from backends.base import Backend
from minigpt.config import load_config
from minigpt.data.world import patterns, tasks, words
from minigpt.evaluate.likelihood import likelihoods
from minigpt.evaluate.world import evaluate_world
from minigpt.events import silent
from minigpt.generate.engine import Engine, chat_prompt
from minigpt.library import train_stage
from minigpt.model.gpt import GPT
from minigpt.runs.inputs import make_tokenizer
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run, open_run
from minigpt.stages.table import USUAL
from minigpt.store.durable import write_whole

PLAIN = "as it is"
LEARNED = "pretrain", "sft"  # the stages that are trained
Settings = dict[str, dict[str, Any]]
# Row -> settings in place of the preset's: what its parts are good for.
ROWS: dict[str, Settings] = {
    PLAIN: {},
    "random first weights": {"model": {"first_weights": "random"}},
    "texts without lessons": {"data": {"world_texts": 40_000, "world_lessons": 0}},
    "particles in longer pieces": {"tokenizer": {"alone": ""}},
    "a quick start": {"pretrain": {"warmup_steps": 20, "matrix_learning_rate": 0.02, "learning_rate": 3e-3}},
    "a quick SFT": {"sft": {"warmup_steps": 20, "matrix_learning_rate": 0.015, "learning_rate": 2e-3}},
}
# What each question of patterns.FACTS looks up: with these words of another fact its answer is wrong.
LOOKED_UP = {"own": (("name",), ("colour",), ("colour", "noun")), "thing": (("place",), ("noun",)),
             "person": (("place",), ("name",))}  # fmt: skip
FACTS = 3
TASKS = tuple(tasks.SHARES)


@dataclass(frozen=True)
class Probe:
    """A text with a question and three answers, of which the first is right."""

    prompt: str
    answers: list[str]


def probes(count: int, seed: int = 1) -> Iterator[Probe]:
    """Draws questions about held-out combinations."""
    rng = random.Random(f"{seed} binding")
    while count:
        language, kind = rng.choice(words.LANGUAGES), rng.choice(tuple(patterns.FACTS))
        slots = [tasks.fact_slots(kind, *row) for _, *row in tasks.told(rng, FACTS)]
        asked = slots[rng.randrange(FACTS)]
        if not tasks.held_out(tasks.combinations(**asked)[0]):
            continue
        sentence, questions = patterns.FACTS[kind][language]
        (question, answer), roles = rng.choice(list(zip(questions, LOOKED_UP[kind], strict=True)))
        told = words.SPACE[language].join(tasks.fill(sentence, language, **one) for one in slots)
        others = [asked | {role: one[role] for role in roles} for one in slots if one is not asked]
        prompt = rng.choice(patterns.READ[language]).format(text=told, question=tasks.fill(question, language, **asked))
        yield Probe(prompt, [tasks.fill(answer, language, **one) for one in (asked, *others)])
        count -= 1


def binding(engine: Engine, asked: Sequence[Probe], chat: bool) -> float:
    """The share of probes answered with the right word, on a scale from guessing (0) to always (1).

    The right answer must be likelier than each other one at the first token in which the two differ.
    """
    tokenizer, context = engine.tokenizer, engine.model.config.context
    pairs = []
    for probe in asked:
        if chat:
            ids, _ = chat_prompt(tokenizer, [{"role": "user", "content": probe.prompt}], context, 0)
            right, *others = (tokenizer.encode(answer) for answer in probe.answers)
        else:
            ids, *whole = (tokenizer.prompt(f"{probe.prompt}\n{end}") for end in ("", *probe.answers))
            right, *others = (one[len(ids) :] for one in whole)
        for other in others:
            same = len(commonprefix([right, other]))
            pairs += [(ids + right[:same], one[same : same + 1]) for one in (right, other)]
    scores = np.array([one.logprob for one in likelihoods(engine, pairs)]).reshape(-1, FACTS - 1, 2)
    right = float((scores[..., 0] > scores[..., 1]).all(axis=1).mean())
    return (right - 1 / FACTS) / (1 - 1 / FACTS)


def trained(arguments: argparse.Namespace, backend: Backend, name: str, seed: int) -> dict[str, Any]:
    """One training: {"binding": {stage: {step: score}}, task: share, …}, or what is kept of it."""
    asked = (arguments.steps, arguments.every, arguments.probes, arguments.questions, arguments.sets)
    label = f"{name}-{seed}-{zlib.crc32(repr(asked).encode()):08x}"
    directory = arguments.directory / "".join(c if c.isalnum() else "-" for c in label)
    kept, points = directory / "reading.json", directory / "binding.json"
    if kept.exists():
        return json.loads(kept.read_text("utf-8"))
    curves: dict[str, dict[str, float]] = json.loads(points.read_text("utf-8")) if points.exists() else {}
    settings: Settings = {"seed": seed, "data": {stage: ["world"] for stage in USUAL}}
    steps = {stage: {"steps": arguments.steps} for stage in LEARNED if arguments.steps}
    asked_for = [setting.replace("=", ".", 1).split(".", 2) for setting in arguments.sets]
    for more in (ROWS[name], steps, *({section: {key: json.loads(value)}} for section, key, value in asked_for)):
        settings |= {section: settings.get(section, {}) | values for section, values in more.items()}
    run = Run(directory, load_config("tiny", None, [], None, settings))
    run.save_config()
    make_tokenizer(run, USUAL, silent)  # from the data of all stages, as the demo has it: the roles become tokens
    for stage in LEARNED:
        hook = _measuring(arguments, backend, points, stage, curves, f"{name}, seed {seed}")
        train_stage(stage, directory, hooks=[hook], backend=backend)
    figures = evaluate_world(load_engine(open_run(directory), "sft", backend), seed + 1, arguments.questions)
    found = {"binding": curves} | {task: figures[f"exact_match_{task}"] for task in TASKS}
    write_whole(kept, json.dumps(found))
    return found


def _measuring(
    arguments: argparse.Namespace, backend: Backend, points: Path, stage: str, curves: dict[str, dict[str, float]],
    title: str,
) -> Callable:  # fmt: skip
    """A hook that takes the binding score every so many steps and at the last one, and keeps it in a file."""
    asked, curve = list(probes(arguments.probes)), curves.setdefault(stage, {})

    def hook(state: Any, done: Any) -> None:
        run = open_run(points.parent)
        if state.step % arguments.every and state.step != run.config.of(stage).steps:
            return
        engine = Engine(GPT(run.shape_of(stage), backend), state.weights, run.tokenizer)
        score = curve[str(state.step)] = round(binding(engine, asked, chat=stage == "sft"), 3)
        write_whole(points, json.dumps(curves))
        print(f"{title}: {stage} step {state.step}: binding {score:.2f}", flush=True)

    return hook


def line(name: str, found: Sequence[dict[str, Any]]) -> str:
    """A row of the table: the binding score after each stage and the tasks, each as the mean over seeds (lowest)."""
    ends = [[list(one["binding"][stage].values())[-1] for one in found] for stage in ("pretrain", "sft")]
    shares = [[100 * one[task] for one in found] for task in TASKS]
    whole = [sum(column) / len(TASKS) for column in zip(*shares, strict=True)]
    cells = [f"{np.mean(values):.2f} ({min(values):.2f})" for values in ends]
    cells += [f"{np.mean(values):.0f} ({min(values):.0f})" for values in (*shares, whole)]
    return f"| {name} | {' | '.join(cells)} |"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW", default=list(ROWS))
    found.add_argument("--seeds", type=int, default=2)
    found.add_argument("--steps", type=int, help="of each stage, instead of the preset's")
    found.add_argument("--every", type=int, default=200, help="steps between two binding scores")
    found.add_argument("--probes", type=int, default=200, help="questions of a binding score")
    found.add_argument("--questions", type=int, default=300, help="of the table")
    found.add_argument("--set", nargs="+", default=[], dest="sets", metavar="A.B=JSON", help="for all trainings")
    found.add_argument("--backend", default="torch")
    found.add_argument("--directory", type=Path, default=Path("runs/reading"))
    found.add_argument("--out", help="a Markdown file for the table")
    return found


def main() -> None:
    arguments = parser().parse_args()
    backend = get_backend(arguments.backend)
    lines = [
        f"| change | binding, text | binding, chat | {' | '.join(TASKS)} | all five |",
        "| --- | --- | --- | " + "--- | " * len(TASKS) + "--- |",
    ]
    for name in arguments.only:
        lines.append(line(name, [trained(arguments, backend, name, seed) for seed in range(1, arguments.seeds + 1)]))
        print(lines[-1], flush=True)
    if arguments.out:
        write_whole(Path(arguments.out), "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
