"""`minigpt errors`: where a model fails, how, and what from.

Answers are compared with the right ones and the wrong ones grouped; the loss of the right answers shows which rows are
hard, and against what the loss grows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from minigpt.data.shards import MemoryShard
from minigpt.evaluate.attribution import attributions
from minigpt.evaluate.details import scored_shard
from minigpt.evaluate.intervals import Figure, wilson
from minigpt.evaluate.mistakes import KINDS, Confused, confusions, kind_of
from minigpt.evaluate.nearest import Neighbours
from minigpt.evaluate.perplexity import Group, Scored, by_document, by_frequency, by_position
from minigpt.evaluate.questions import Question, answers_to, prompt_of
from minigpt.generate.engine import Engine
from minigpt.text.chatml import render
from minigpt.units import shortened

WORST, EXAMPLES, SHOWN = 10, 3, 400  # rows shown, wrong answers of each kind, characters of a text
LONGEST_ANSWER = 128  # tokens that a model may write


@dataclass(frozen=True)
class Item:
    """A row: ids up to the answer, ids of the right answer with its end; its texts and task. No prompt: a document."""

    prompt: list[int]
    answer: list[int]
    question: str
    references: list[str]
    task: str = ""


@dataclass(frozen=True)
class Hard:
    """A row whose right answer the model finds unlikely: nats per token, and the token that surprises it most."""

    question: str
    right: str
    loss: float
    token: str
    nats: float
    task: str


@dataclass(frozen=True)
class Wrong:
    """A wrong answer: its kind; how much each token of the prompt spoke for it; training rows like it."""

    question: str
    answer: str
    right: str
    kind: str
    task: str
    attribution: list[tuple[str, float]] = field(default_factory=list)
    near: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Failures:
    """All that `find_failures` found; `kinds` counts wrong answers by kind, `by_task` the same for each task."""

    rows: int
    right: Figure | None
    kinds: dict[str, int]
    by_task: dict[str, dict[str, int]]
    confused: list[Confused]
    wrong: list[Wrong]
    hard: list[Hard]
    groups: dict[str, list[Group]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def items_of_questions(engine: Engine, questions: Sequence[Question]) -> list[Item]:
    """Rows of files."""
    found = []
    for one in questions:
        prompt = prompt_of(engine, one)
        whole, _ = render(engine.tokenizer, [*one.messages, {"role": "assistant", "content": one.references[0]}])
        end = len(engine.tokenizer.encode(one.references[0])) + 1
        found.append(Item(prompt, whole[len(prompt) : len(prompt) + end], one.text, one.references, one.task))
    return found


def items_of_shard(engine: Engine, shard: MemoryShard, limit: int | None = None) -> list[Item]:
    """Held-out rows: of a conversation the last answer, of a text all of it."""
    numbers = range(len(shard)) if limit is None else np.linspace(0, len(shard) - 1, min(limit, len(shard))).astype(int)
    found = []
    for number in numbers:
        ids, mask = shard.sequence(int(number))
        ids = [int(i) for i in ids]
        if mask is None:
            found.append(Item([], ids, "", [engine.tokenizer.decode(ids)]))
            continue
        learned = np.flatnonzero(mask)
        if len(learned):
            end = int(learned[-1]) + 1
            start = end - 1
            while start and mask[start - 1]:
                start -= 1
            question = engine.tokenizer.show_quoted(ids[:start])
            found.append(Item(ids[:start], ids[start:end], question, [engine.tokenizer.decode(ids[start:end])]))
    return found


def find_failures(
    engine: Engine, items: Sequence[Item], training: MemoryShard | None = None, examples: int = EXAMPLES,
    worst: int = WORST,
) -> Failures:  # fmt: skip
    """Loss of the right answers, the model's own answers, and what is wrong with them; `training` is looked through."""
    shard = _as_shard(items)
    scored, sizes = scored_shard(engine, shard), engine.tokenizer.byte_lengths
    groups = {"length of the right answer": by_document(scored, sizes, _lengths(items)),
              "position": by_position(scored, sizes)}  # fmt: skip
    if training is not None:
        counts = np.bincount(np.asarray(training.ids), minlength=len(sizes))
        groups["occurrences in the training data"] = by_frequency(scored, sizes, counts)
    hard = _hardest(engine, items, scored, worst)
    asked = [item for item in items if item.prompt]
    if not asked:
        return Failures(len(items), None, {}, {}, [], [], hard, groups)
    answers = answers_to(engine, [item.prompt for item in asked], LONGEST_ANSWER)
    texts = [answer.text.strip() for answer in answers]
    kinds = [kind_of(text, item.references, answer.reason)
             for text, item, answer in zip(texts, asked, answers, strict=True)]  # fmt: skip
    right = wilson(sum(not kind for kind in kinds), len(kinds))
    wrong = [i for i, kind in enumerate(kinds) if kind]
    confused = confusions((asked[i].task, texts[i], asked[i].references) for i in wrong)
    shown = _shown(engine, asked, answers, kinds, examples, training)
    return Failures(len(items), right, _counted(kinds), _by_task(asked, kinds), confused, shown, hard, groups)


def _as_shard(items: Sequence[Item]) -> MemoryShard:
    ids = [id for item in items for id in (*item.prompt, *item.answer)]
    mask = [part for item in items for part in (*[0] * len(item.prompt), *[1] * len(item.answer))]
    ends = np.cumsum([len(item.prompt) + len(item.answer) for item in items])
    return MemoryShard(np.array(ids, np.int64), ends, np.array(mask, np.uint8))


def _lengths(items: Sequence[Item]) -> list[str]:
    """A label for each row's answer that sorts by its length: 001-003, 004-007, … tokens."""
    powers = [int(np.log2(max(1, len(item.answer)))) for item in items]
    return [f"{2**power:04d}-{2 ** (power + 1) - 1:04d}" for power in powers]


def _counted(kinds: Sequence[str]) -> dict[str, int]:
    counts = Counter(kind for kind in kinds if kind)
    return {kind: counts[kind] for kind in sorted(KINDS, key=lambda kind: -counts[kind]) if counts[kind]}


def _by_task(asked: Sequence[Item], kinds: Sequence[str]) -> dict[str, dict[str, int]]:
    """Task -> {"right": …, kind: …}; {} where rows name no tasks."""
    found: dict[str, Counter[str]] = {}
    for item, kind in zip(asked, kinds, strict=True):
        if item.task:
            found.setdefault(item.task, Counter())[kind or "right"] += 1
    return {task: dict(counts.most_common()) for task, counts in sorted(found.items())}


def _hardest(engine: Engine, items: Sequence[Item], scored: Scored, count: int) -> list[Hard]:
    totals = np.bincount(scored.documents, scored.nats, len(items))
    means = totals / np.maximum(np.bincount(scored.documents, minlength=len(items)), 1)
    found = []
    for number in np.argsort(-means, kind="stable")[:count]:
        places = np.flatnonzero(scored.documents == number)
        if len(places):
            place, item = places[scored.nats[places].argmax()], items[number]
            token = engine.tokenizer.show([int(scored.ids[place])])
            found.append(Hard(_short(item.question), _short(item.references[0]), float(means[number]), token,
                              float(scored.nats[place]), item.task))  # fmt: skip
    return found


def _shown(
    engine: Engine, asked: Sequence[Item], answers: Sequence[Any], kinds: Sequence[str], count: int,
    training: MemoryShard | None,
) -> list[Wrong]:  # fmt: skip
    """The first wrong answers of each kind, most frequent kinds first, with where they come from."""
    tokenizer, found = engine.tokenizer, []
    near = None if training is None else Neighbours(training, tokenizer.vocab_size, _controls(engine))
    for kind in _counted(kinds):
        for i in [i for i, one in enumerate(kinds) if one == kind][:count]:
            item, answer = asked[i], answers[i]
            attribution = _attributed(engine, item.prompt, answer.ids)
            rows = [] if near is None else [
                (_short(tokenizer.show_quoted([int(i) for i in training.sequence(one.row)[0]])), one.cosine)
                for one in near.nearest([*item.prompt, *answer.ids])
            ]  # fmt: skip
            found.append(Wrong(_short(item.question), _short(answer.text.strip()), _short(item.references[0]), kind,
                               item.task, attribution, rows))  # fmt: skip
    return found


def _controls(engine: Engine) -> int:
    """How many tokens at the beginning of the vocabulary are control tokens."""
    return next(i for i in range(engine.tokenizer.vocab_size) if not engine.tokenizer.is_control(i))


def _attributed(engine: Engine, prompt: list[int], answer: list[int]) -> list[tuple[str, float]]:
    """The prompt's tokens as text, each with its attribution; [] where there is no answer or it does not fit."""
    if not answer or len(prompt) + len(answer) > engine.model.config.context + 1:
        return []
    values = attributions(engine, prompt, answer)
    return [(engine.tokenizer.show([token]), float(value)) for token, value in zip(prompt, values, strict=False)]


def _short(text: str) -> str:
    return shortened(text, SHOWN)
