"""Multiple choice by likelihood: which of some continuations a model finds likeliest, as the usual benchmarks ask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minigpt.evaluate.intervals import Figure, wilson
from minigpt.evaluate.kept import Kept
from minigpt.evaluate.likelihood import likelihoods, split_ids
from minigpt.generate.engine import Engine


@dataclass(frozen=True)
class Choice:
    """What comes before, the continuations, which is right, and a name of what is asked.

    With one option the model itself must write it: it is right when greedy decoding would.
    """

    context: str
    options: list[str]
    right: int
    group: str = ""


@dataclass(frozen=True)
class Tested:
    """A test's figures with intervals and by group, what guessing reaches, and the single rows."""

    name: str
    figures: dict[str, Figure]
    groups: dict[str, Figure]
    chance: float
    rows: list[Kept]


def run_choices(engine: Engine, name: str, items: Sequence[Choice]) -> Tested:
    """`accuracy` by the whole likelihood of a continuation, `accuracy_per_byte` by that over its length in UTF-8.

    The second does not prefer short answers; the harness calls it acc_norm. It is omitted where there is one option.
    """
    pairs = [split_ids(engine, item.context, option) for item in items for option in item.options]
    found = iter(likelihoods(engine, pairs))
    right, per_byte, rows = [], [], []
    for item in items:
        scores = [next(found) for _ in item.options]
        logprobs = np.array([one.logprob for one in scores])
        sizes = np.array([len(option.encode()) for option in item.options])
        alone = len(item.options) == 1
        chosen, normed = int(logprobs.argmax()), int((logprobs / sizes).argmax())
        right.append(scores[0].greedy if alone else chosen == item.right)
        per_byte.append(normed == item.right)
        more = {"task": item.group, "answer": "" if alone else item.options[chosen].strip(),
                "references": [item.options[item.right].strip()], "logprobs": [round(float(x), 4) for x in logprobs]}
        question = item.context or item.options[item.right]
        rows.append(Kept(f"{name}: accuracy", question, float(right[-1]), more))  # fmt: skip
    figures = {"accuracy": wilson(sum(right), len(right))}
    if any(len(item.options) > 1 for item in items):
        figures["accuracy_per_byte"] = wilson(sum(per_byte), len(per_byte))
    chance = float(np.mean([1 / len(item.options) if len(item.options) > 1 else 0.0 for item in items]))
    return Tested(name, figures, _by_group(items, right), chance, rows)


def _by_group(items: Sequence[Choice], right: Sequence[bool]) -> dict[str, Figure]:
    groups: dict[str, list[bool]] = {}
    for item, hit in zip(items, right, strict=True):
        groups.setdefault(item.group, []).append(hit)
    return {name: wilson(sum(hits), len(hits)) for name, hits in groups.items()} if len(groups) > 1 else {}
