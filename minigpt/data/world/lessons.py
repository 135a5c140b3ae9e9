"""Lessons: texts with several questions of one task in a row, each with its answer.

A text of sentences asks little: most of its tokens tell something new, which nobody can predict. In a lesson most
tokens follow from what stands before them, so that a step teaches several times as much about the tasks.
"""

import random
from collections.abc import Callable, Iterator

from minigpt.data.world import patterns, tasks, words
from minigpt.data.world.tasks import combinations, fact_slots, fill, held_out

SHARES = dict(read=0.6, arithmetic=0.2, translate=0.07, story=0.11, name=0.02)  # of the lessons
QUESTIONS = dict(read=6, arithmetic=6, translate=6, story=3, name=3)  # of one lesson, at most


def lessons(seed: int, count: int) -> Iterator[dict]:
    """Draws `count` lessons `{"text"}` in English or Chinese, without any combination of the test split."""
    rng = random.Random(f"{seed} lessons")
    for _ in range(count):
        language = rng.choice(words.LANGUAGES)
        task = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
        asked = _about_a_text(rng, language) if task == "read" else _one_by_one(rng, language, task)
        yield dict(text="\n".join(f"{question}\n{answer}" for question, answer in asked))


def _about_a_text(rng: random.Random, language: str) -> list[tuple[str, str]]:
    """Two to four facts and the questions about them, in any order: each fact must be found again and again."""
    size = rng.randint(2, 4)
    rows = _allowed(lambda: tasks.told(rng, size), lambda rows: [combinations(**fact_slots(*row))[0] for row in rows])
    sentences, asked = [], []
    for kind, *row in rows:
        slots = fact_slots(kind, *row)
        sentence, questions = patterns.FACTS[kind][language]
        sentences.append(fill(sentence, language, **slots))
        asked += [tuple(fill(text, language, **slots) for text in pair) for pair in questions]
    rng.shuffle(asked)
    (question, answer), *others = asked[: QUESTIONS["read"]]
    text = words.SPACE[language].join(sentences)
    return [(rng.choice(patterns.READ[language]).format(text=text, question=question), answer), *others]


def _one_by_one(rng: random.Random, language: str, task: str) -> list[tuple[str, str]]:
    exchanges = (
        _allowed(lambda: tasks.single(rng, language, task), lambda found: [found.asked, *found.mentioned])
        for _ in range(QUESTIONS[task])
    )
    return [(exchange.question, exchange.answer) for exchange in exchanges]


def _allowed(draw: Callable, combined: Callable) -> tasks.Exchange | list:
    """The first of what `draw()` draws that has no combination of the test split."""
    while True:
        found = draw()
        if not any(map(held_out, combined(found))):
            return found
