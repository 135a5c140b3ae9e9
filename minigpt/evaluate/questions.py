"""Questions with right answers from any file of rows, and a model's greedy answers to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.examples import Conversation, Preference
from minigpt.data.parse.formats import parse_row
from minigpt.data.read.named import resolve
from minigpt.data.read.suffixes import is_text
from minigpt.data.rows import rows_of
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.text.chatml import render
from minigpt.text.messages import Message

TASK_KEYS = ("task", "subject", "category")
BATCH, LONGEST = 50, 256  # answers at a time, tokens of an answer


@dataclass(frozen=True)
class Question:
    """The messages up to the answer, the right answers, and the row's task ("" where it names none)."""

    messages: list[Message]
    references: list[str]
    task: str = ""


def questions_of(sources: Sequence[str], downloads: Path, limit: int | None = None) -> list[Question]:
    """The questions of all rows that have an answer, or `limit` of them spread evenly. [] for files of text.

    Raises DataError that names the row for one that cannot be read.
    """
    found = list(_questions(sources, downloads))
    if limit is None or limit >= len(found):
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, limit).astype(int)]


def _questions(sources: Sequence[str], downloads: Path) -> Iterator[Question]:
    for path in resolve(list(sources), downloads):
        if is_text(path):
            continue
        for row in rows_of(path):
            example, value = parse_row(row), getattr(row, "value", None)
            if isinstance(example, Conversation):
                yield Question(example.messages[:-1], _references(example.messages[-1]["content"], value), _task(value))
            elif isinstance(example, Preference):
                yield Question(example.prompt, [example.chosen[-1]["content"]], _task(value))


def _references(answer: str, value: Any) -> list[str]:
    """The row's answer, and others that it calls right in a list `references`."""
    others = value.get("references") if isinstance(value, dict) else None
    return [answer, *(one for one in others or [] if isinstance(one, str) and one != answer)]


def _task(value: Any) -> str:
    named = (value.get(key) for key in TASK_KEYS) if isinstance(value, dict) else ()
    return next((one for one in named if isinstance(one, str)), "")


def answers_of(engine: Engine, questions: Sequence[Question], longest: int = LONGEST) -> list[str]:
    """Greedy answers, computed in batches of similar length; "" to a question that does not fit the context."""
    prompts = [render(engine.tokenizer, question.messages, generation_prompt=True)[0] for question in questions]
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < engine.model.config.context]
    fitting.sort(key=lambda i: len(prompts[i]))
    answers = [""] * len(questions)
    for first in range(0, len(fitting), BATCH):
        numbers = fitting[first : first + BATCH]
        found = engine.answer([prompts[i] for i in numbers], GREEDY, longest)
        for i, answer in zip(numbers, found, strict=True):
            answers[i] = answer.text.strip()
    return answers
