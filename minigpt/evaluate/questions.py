"""Questions with right answers from any file of rows, and a model's greedy answers to them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.data.examples import Conversation, Preference
from minigpt.data.forms import WORLD
from minigpt.data.parse.formats import parse_row
from minigpt.data.read.named import resolve
from minigpt.data.read.suffixes import is_text
from minigpt.data.rows import rows_of
from minigpt.data.world import rows as world
from minigpt.evaluate.likelihood import likelihoods
from minigpt.evaluate.text_metrics import same
from minigpt.generate.engine import Answer, Engine
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.text.chatml import render
from minigpt.text.messages import Message

GROUPS = {  # how rows name what they belong to
    "task": ("task", "subject", "category"), "language": ("language", "lang"), "source": ("source", "dataset"),
}  # fmt: skip
BATCH, LONGEST = 50, 256  # answers at a time, tokens of an answer
OF_WORLD = 200  # questions, where no number is asked for
TEMPERATURE = 0.8  # of several answers to one question


@dataclass(frozen=True)
class Question:
    """The messages up to the answer, the right answers, and the row's task, language and source ("": none is named)."""

    messages: list[Message]
    references: list[str]
    task: str = ""
    language: str = ""
    source: str = ""

    @property
    def text(self) -> str:
        """What was said before the answer, a line for each message."""
        return "\n".join(message["content"] for message in self.messages)


def questions_of(
    sources: Sequence[str], downloads: Path, limit: int | None = None, seed: int = 0
) -> list[Question]:
    """The questions of all rows that have an answer, or `limit` of them spread evenly. [] for files of text.

    The built-in world gives questions of its test, as they are for a run with that seed. Raises DataError that names
    the row for one that cannot be read.
    """
    found = list(_questions([name for name in sources if name != WORLD], downloads))
    if WORLD in sources:
        rows = world.instructions(seed + 1, limit or OF_WORLD, "test")
        found += [_of_world(row) for row in rows]
    if limit is None or limit >= len(found):
        return found
    return [found[i] for i in np.linspace(0, len(found) - 1, limit).astype(int)]


def _questions(sources: Sequence[str], downloads: Path) -> Iterator[Question]:
    for path in resolve(list(sources), downloads):
        if is_text(path):
            continue
        for row in rows_of(path):
            example, value = parse_row(row), getattr(row, "value", None)
            named = {group: _named(value, keys) for group, keys in GROUPS.items()}
            if isinstance(example, Conversation):
                yield Question(example.messages[:-1], _references(example.messages[-1]["content"], value), **named)
            elif isinstance(example, Preference):
                yield Question(example.prompt, [example.chosen[-1]["content"]], **named)


def _of_world(row: dict[str, Any]) -> Question:
    *messages, answer = row["messages"]
    return Question(messages, [answer["content"]], row["task"], row["language"])


def _references(answer: str, value: Any) -> list[str]:
    """The row's answer, and others that it calls right in a list `references`."""
    others = value.get("references") if isinstance(value, dict) else None
    return [answer, *(one for one in others or [] if isinstance(one, str) and one != answer)]


def _named(value: Any, keys: Sequence[str]) -> str:
    named = (value.get(key) for key in keys) if isinstance(value, dict) else ()
    return next((one for one in named if isinstance(one, str)), "")


def answers_of(engine: Engine, questions: Sequence[Question], longest: int = LONGEST) -> list[str]:
    """The texts of `greedy_answers`."""
    return [answer.text.strip() for answer in greedy_answers(engine, questions, longest)]


def prompt_of(engine: Engine, question: Question) -> list[int]:
    """The ids up to where the answer begins."""
    return render(engine.tokenizer, question.messages, generation_prompt=True)[0]


def greedy_answers(engine: Engine, questions: Sequence[Question], longest: int = LONGEST) -> list[Answer]:
    """Greedy answers, computed in batches of similar length; an empty one to a question that is too long."""
    return answers_to(engine, [prompt_of(engine, question) for question in questions], longest)


def answers_to(
    engine: Engine, prompts: Sequence[list[int]], longest: int = LONGEST, progress: Callable[[int], None] = int
) -> list[Answer]:
    """The same for prompts that are ids already; `progress` is told how many are answered."""
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < engine.model.config.context]
    fitting.sort(key=lambda i: len(prompts[i]))
    answers = [Answer([], "", "context")] * len(prompts)
    for first in range(0, len(fitting), BATCH):
        numbers = fitting[first : first + BATCH]
        found = engine.answer([prompts[i] for i in numbers], GREEDY, longest)
        for i, answer in zip(numbers, found, strict=True):
            answers[i] = answer
        progress(first + len(numbers))
    return answers


def confidences(engine: Engine, questions: Sequence[Question], answers: Sequence[Answer]) -> np.ndarray:
    """(n,): the probability that the model gave to each whole answer, its end included; 0 for one it has not given."""
    given = [i for i, answer in enumerate(answers) if answer.ids or answer.stop is not None]
    pairs = []
    for i in given:
        end = [] if answers[i].stop is None else [answers[i].stop]
        pairs.append((prompt_of(engine, questions[i]), answers[i].ids + end))
    found = np.zeros(len(answers))
    for i, one in zip(given, likelihoods(engine, pairs), strict=True):
        found[i] = np.exp(one.logprob)
    return found


def sampled_right(engine: Engine, questions: Sequence[Question], samples: int, seed: int = 0) -> np.ndarray:
    """(n,): how many of `samples` answers to each question, drawn at temperature 0.8, are right."""
    right = np.zeros(len(questions), int)
    fitting = [i for i, one in enumerate(questions) if len(prompt_of(engine, one)) < engine.model.config.context]
    for i in fitting:
        drawn = [Sampling(temperature=TEMPERATURE, seed=seed + draw) for draw in range(samples)]
        answers = engine.answer_each([prompt_of(engine, questions[i])] * samples, drawn, LONGEST)
        right[i] = sum(max(same(answer.text, one) for one in questions[i].references) for answer in answers)
    return right
