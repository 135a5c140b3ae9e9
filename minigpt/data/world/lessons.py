"""Lessons: texts with several questions of one task in a row, each with its answer, and drills of what they need.

A text of sentences asks little: most of its tokens tell something new, which nobody can predict. In a lesson most
tokens follow from what stands before them, so that a step teaches several times as much about the tasks. In the drills
a thing is in any place, also in a colour or a bag: nothing but the text tells where, so that reading alone helps.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigpt.data.world import patterns, tasks, words
from minigpt.data.world.tasks import combinations, fact_slots, fill, held_out
from minigpt.data.world.words import Word

QUESTIONS = dict(read=6, arithmetic=6, translate=6, story=3)  # of one lesson, at most
FACTS = 3, 7  # of a drill
SUMS = 10
ANY = words.COLOURS + words.NOUNS, words.PLACES + words.COLOURS + words.NOUNS  # in place of a colour, of a place
# The questions whose answers begin with what must be found: kind of fact -> its place in patterns.FACTS, and its share
# in each language. A Chinese owner stands six tokens before what is owned, too far for a small model.
FIRST = {
    "own": (0, {"en": 0.45, "zh": 0.0}), "thing": (1, {"en": 0.35, "zh": 0.4}), "person": (1, {"en": 0.2, "zh": 0.6}),
}  # fmt: skip

Slots = dict[str, Word]


def lessons(seed: int, count: int) -> Iterator[dict]:
    """Draws `count` lessons `{"text"}` in English or Chinese, without any combination of the test split."""
    rng = random.Random(f"{seed} lessons")
    for _ in range(count):
        language = rng.choice(words.LANGUAGES)
        lesson = rng.choices(tuple(_LESSONS), tuple(_LESSONS.values()))[0]
        yield dict(text=lesson(rng, language))


# ---- questions as the tasks have them
def _read(rng: random.Random, language: str) -> str:
    """Two to four facts and the questions about them, in any order: each fact must be found again and again."""
    size = rng.randint(2, 4)
    rows = _allowed(lambda: tasks.told(rng, size), lambda rows: [combinations(**fact_slots(*row))[0] for row in rows])
    sentences, asked = [], []
    for kind, *row in rows:
        slots = fact_slots(kind, *row)
        sentence, questions = patterns.FACTS[kind][language]
        sentences.append(fill(sentence, language, **slots))
        asked += [_filled(language, slots, pair) for pair in questions]
    rng.shuffle(asked)
    (question, answer), *others = asked[: QUESTIONS["read"]]
    text = words.SPACE[language].join(sentences)
    return _lines([(rng.choice(patterns.READ[language]).format(text=text, question=question), answer), *others])


def _one_by_one(task: str) -> Callable[[random.Random, str], str]:
    def lesson(rng: random.Random, language: str) -> str:
        exchanges = (
            _allowed(lambda: tasks.single(rng, language, task), lambda found: [found.asked, *found.mentioned])
            for _ in range(QUESTIONS[task])
        )
        return _lines([(exchange.question, exchange.answer) for exchange in exchanges])

    return lesson


# ---- drills
def _facts(rng: random.Random, kind: str) -> list[Slots]:
    """Facts of one kind that share no word; every second time their places and colours are any words."""
    size = rng.randint(*FACTS)

    def draw() -> list[Slots]:
        names, nouns = rng.sample(words.NAMES, size), rng.sample(words.NOUNS, size)
        colours, places = rng.sample(words.COLOURS, size), rng.sample(words.PLACES, size)
        if anywhere:
            colours, places = (rng.sample([word for word in any_ if word not in nouns], size) for any_ in ANY)
        return [fact_slots(kind, *row) for row in zip(names, nouns, colours, places, strict=True)]

    anywhere = rng.random() < 0.5
    return _allowed(draw, lambda found: [combination for slots in found for combination in combinations(**slots)])


def _told(language: str, kind: str, facts: Sequence[Slots]) -> str:
    sentence = patterns.FACTS[kind][language][0]
    return words.SPACE[language].join(fill(sentence, language, **slots) for slots in facts)


def _again(rng: random.Random, language: str) -> str:
    """Facts, and the same ones in another order."""
    kind = rng.choice(tuple(patterns.FACTS))
    facts = _facts(rng, kind)
    return "\n".join(_told(language, kind, order) for order in (facts, rng.sample(facts, len(facts))))


def _asked(rng: random.Random, language: str) -> str:
    """Facts and questions of all forms."""
    kind = rng.choice(tuple(patterns.FACTS))
    facts = _facts(rng, kind)
    pairs = [(slots, pair) for slots in facts for pair in patterns.FACTS[kind][language][1]]
    drawn = rng.sample(pairs, min(len(pairs), QUESTIONS["read"]))
    return _told(language, kind, facts) + "\n" + _lines([_filled(language, *one) for one in drawn])


def _found_first(rng: random.Random, language: str) -> str:
    """Facts and a question about each, whose answer begins with what must be found: the hardest ones."""
    kind = rng.choices(tuple(FIRST), [shares[language] for _, shares in FIRST.values()])[0]
    facts, pair = _facts(rng, kind), patterns.FACTS[kind][language][1][FIRST[kind][0]]
    asked = rng.sample(facts, len(facts))
    return _told(language, kind, facts) + "\n" + _lines([_filled(language, slots, pair) for slots in asked])


def _filled(language: str, slots: Slots, pair: tuple[str, str]) -> tuple[str, str]:
    question, answer = (fill(text, language, **slots) for text in pair)
    return question, answer


def _sums(rng: random.Random, language: str) -> str:
    """Sums and differences one after another, in their short form."""
    drawn = (_allowed(lambda: tasks.drawn_sum(rng), lambda found: found[-1:]) for _ in range(SUMS))
    equations = (patterns.ARITHMETIC[operation][language][1].format(a=a, b=b, c=c) for operation, a, b, c, _ in drawn)
    return words.SPACE[language].join(equation + words.STOP[language] for equation in equations)


def _lines(asked: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{question}\n{answer}" for question, answer in asked)


def _allowed(draw: Callable, combined: Callable) -> Any:
    """The first of what `draw()` draws that has no combination of the test split."""
    while True:
        found = draw()
        if not any(map(held_out, combined(found))):
            return found


# Lesson -> share of the lessons.
_LESSONS = {
    _read: 0.08,
    _one_by_one("arithmetic"): 0.03,
    _one_by_one("translate"): 0.01,
    _one_by_one("story"): 0.03,
    _again: 0.17,
    _asked: 0.28,
    _found_first: 0.23,
    _sums: 0.17,
}
