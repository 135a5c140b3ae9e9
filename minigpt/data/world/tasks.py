"""The five tasks of the bundled world: each draws a question with its one right answer."""

import hashlib
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from minigpt.data.world import patterns, words
from minigpt.data.world.words import Word

HELD_OUT = 6  # one combination in six is kept for the test split
MAX_OPERAND = 20  # sums and differences take 1..20, so that results are 0..40
LARGEST = 40  # larger numbers are added up to this, and taken from it
ALWAYS_TAUGHT = 9  # the table of single digits is the alphabet of arithmetic: never held out
SHARES = dict(read=0.2, arithmetic=0.2, translate=0.2, story=0.2, name=0.2)  # of a test: every task counts the same

Combination = tuple[str, ...]  # a kind and the English names of what is combined: ("phrase", "red", "kite")
Sum = tuple[str, int, int, int, Combination]  # operation, a, b, result and combination


class Exchange(NamedTuple):
    """A question and its one right answer; it asks about one combination and mentions others."""

    task: str
    question: str
    answer: str
    asked: Combination
    mentioned: tuple[Combination, ...] = ()


class Mix(NamedTuple):
    """What conversations are about: the shares of the tasks, and of the sums the share of larger numbers."""

    shares: Mapping[str, float]
    larger: float = 0.0


TESTED = Mix(SHARES)
# What is harder is learned more often. Of few pairs of numbers a model learns the results, and of more the rule.
LEARNED = Mix(dict(read=0.2, arithmetic=0.3, translate=0.14, story=0.26, name=0.1), larger=0.5)


@cache
def held_out(combination: Combination) -> bool:
    """Whether this combination belongs to the test split, in both languages; the same on every machine."""
    kind, *parts = combination
    if kind == "word" or kind == "sum" and max(map(int, parts)) <= ALWAYS_TAUGHT:
        return False
    digest = hashlib.sha256("/".join(combination).encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT == 0


def conversation(rng: random.Random, language: str, turns: int = 1, mix: Mix = TESTED) -> list[Exchange]:
    """`turns` exchanges: follow-up questions about one text, or one task after another; its shares are of the first."""
    task = rng.choices(tuple(mix.shares), tuple(mix.shares.values()))[0]
    if task == "read":
        return read(rng, language, turns)
    single_tasks = {name: share for name, share in mix.shares.items() if name in _SINGLE}
    drawn = [task, *rng.choices(tuple(single_tasks), tuple(single_tasks.values()), k=turns - 1)]
    return [single(rng, language, each, mix.larger) for each in drawn]


def single(rng: random.Random, language: str, task: str, larger: float = 0.0) -> Exchange:
    """One exchange of a task that needs no text before it: any but "read". Of sums, a share is of larger numbers."""
    if task == "arithmetic" and larger and rng.random() < larger:
        return arithmetic(rng, language, larger_sum)
    return _SINGLE[task](rng, language)


# ---- read
class Fact(NamedTuple):
    """A sentence, a question about it with its answer, and the combination it is."""

    sentence: str
    question: str
    answer: str
    combination: Combination


def read(rng: random.Random, language: str, turns: int = 1) -> list[Exchange]:
    """`turns` questions about one text of two or three facts."""
    told = facts(rng, language, rng.randint(2, 3))
    text = words.SPACE[language].join(fact.sentence for fact in told)
    mentioned = tuple(fact.combination for fact in told)
    exchanges = [Exchange("read", fact.question, fact.answer, fact.combination, mentioned)
                 for fact in rng.sample(told, turns)]
    opening = rng.choice(patterns.READ[language]).format(text=text, question=exchanges[0].question)
    return [exchanges[0]._replace(question=opening), *exchanges[1:]]


def facts(rng: random.Random, language: str, size: int) -> list[Fact]:
    """`size` facts that share no name, thing, colour or place."""
    return [_fact(rng, kind, language, *row) for kind, *row in told(rng, size)]


def told(rng: random.Random, size: int) -> list[tuple[str, Word, Word, Word, Word]]:
    """What `size` facts are about: kind, name, thing, colour and place of each, none of them twice."""
    kinds = rng.choices(tuple(patterns.FACTS), k=size)
    if rng.random() < 0.5:
        kinds = kinds[:1] * size  # facts of one kind: the question's form alone gives nothing away
    columns = [rng.sample(column, size) for column in (words.NAMES, words.NOUNS, words.COLOURS, words.PLACES)]
    return list(zip(kinds, *columns, strict=True))


def _fact(rng: random.Random, kind: str, language: str, *row: Word) -> Fact:
    slots = fact_slots(kind, *row)
    sentence, questions = patterns.FACTS[kind][language]
    question, answer = rng.choice(questions)
    sentence, question, answer = (fill(text, language, **slots) for text in (sentence, question, answer))
    return Fact(sentence, question, answer, combinations(**slots)[0])


def fact_slots(kind: str, name: Word, noun: Word, colour: Word, place: Word) -> dict[str, Word]:
    """Those of the four words that a fact of this kind is about."""
    return {"own": dict(name=name, noun=noun, colour=colour), "thing": dict(noun=noun, place=place),
            "person": dict(name=name, place=place)}[kind]


# ---- arithmetic
def drawn_sum(rng: random.Random) -> Sum:
    """A sum or difference of two numbers up to MAX_OPERAND; no difference is below 0."""
    operation = rng.choice(("plus", "minus"))
    a, b = rng.randint(1, MAX_OPERAND), rng.randint(1, MAX_OPERAND)
    if operation == "minus" and a < b:
        a, b = b, a
    return operation, *sum_of(operation, a, b)


def larger_sum(rng: random.Random) -> Sum:
    """a + b = c, or c - a = b, where a or b is above MAX_OPERAND and c at most LARGEST: no test has such a pair."""
    operation = rng.choice(("plus", "minus"))
    while True:
        a, b = rng.randint(1, LARGEST), rng.randint(1, LARGEST)
        if max(a, b) > MAX_OPERAND and a + b <= LARGEST:
            return operation, *sum_of(operation, a if operation == "plus" else a + b, b)


def arithmetic(rng: random.Random, language: str, draw: Callable[[random.Random], Sum] = drawn_sum) -> Exchange:
    """A sum or a difference, bare or of things; the answer says it in full."""
    operation, a, b, c, asked = draw(rng)
    bare, equation, stories, conclusions = patterns.ARITHMETIC[operation][language]
    which = rng.randrange(len(stories))
    question, answer = rng.choice(bare), equation
    if rng.random() < 0.5 and a > 1 and c != 1:  # nobody says "there are 1 apple"
        question, answer = stories[which], equation + conclusions[which]
    (name, friend), noun = rng.sample(words.NAMES, 2), rng.choice(words.FOODS + words.TOYS)
    question, answer = (fill(text, language, name=name, friend=friend, noun=noun, a=a, b=b, c=c)
                        for text in (question, answer + words.STOP[language]))
    return Exchange("arithmetic", question, answer, asked)


def in_steps(
    rng: random.Random, language: str, mistaken: bool
) -> tuple[str, list[tuple[str, bool]], list[Combination]]:
    """A sum or difference, its solution as (line, whether all is right so far), and what it combines.

    The second number is taken in two or three parts. A mistake is carried on: what follows from it is wrong, too.
    """
    operation = rng.choice(("plus", "minus"))
    b = rng.randint(3, MAX_OPERAND)
    a = rng.randint(1, MAX_OPERAND) if operation == "plus" else rng.randint(b, 2 * MAX_OPERAND)
    bare, equation, *_ = patterns.ARITHMETIC[operation][language]
    noun = words.FOODS[0]  # the bare questions are not about things
    question = fill(rng.choice(bare), language, noun=noun, a=a, b=b)
    cuts = sorted(rng.sample(range(1, b), rng.randint(1, 2)))
    parts = [high - low for low, high in zip([0, *cuts], [*cuts, b], strict=True)]
    wrong = rng.randrange(len(parts)) if mistaken else len(parts)
    lines, combined, sign = [], [sum_of(operation, a, b)[3]], 1 if operation == "plus" else -1
    for number, part in enumerate(parts):
        combined.append(sum_of(operation, a, part)[3])
        result = a + sign * part
        result = max(0, result + rng.choice((-2, -1, 1, 2))) if number == wrong else result
        line = fill(equation, language, noun=noun, a=a, b=part, c=result) + words.STOP[language]
        lines.append((line, number < wrong))
        a = result
    return question, lines, combined


def sum_of(operation: str, a: int, b: int) -> tuple[int, int, int, Combination]:
    """The two numbers, the result, and the combination: one for x + y, y + x, (x + y) - x and (x + y) - y."""
    c, parts = (a + b, (a, b)) if operation == "plus" else (a - b, (a - b, b))
    return a, b, c, ("sum", *map(str, sorted(parts)))


# ---- translate
def translate(rng: random.Random, language: str) -> Exchange:
    """A word (never tested, since nobody can guess a word) or a colour with a noun, into either language."""
    target, source = rng.sample(words.LANGUAGES, 2)
    if rng.random() < 0.2:
        word = rng.choice(words.NOUNS + words.DRINKS + words.COLOURS + words.PLACES)
        phrases, asked = {"en": word.en, "zh": word.zh}, ("word", word.en)
    else:
        phrases, asked = phrase(rng)
    question = rng.choice(patterns.TRANSLATE[language, target]).format(text=phrases[source])
    return Exchange("translate", question, phrases[target], asked)


def phrase(rng: random.Random) -> tuple[dict[str, str], Combination]:
    """A phrase such as "a red kite" by language, and its combination."""
    slots = dict(colour=rng.choice(words.COLOURS), noun=rng.choice(words.NOUNS))
    phrases = {each: fill(patterns.PHRASE[each], each, **slots) for each in words.LANGUAGES}
    return phrases, combinations(**slots)[0]


# ---- story
def story(rng: random.Random, language: str) -> Exchange:
    """The beginning of a story whose ending follows from the rules of the world."""
    beginning, ending, asked, mentioned = plot(rng, language)
    question = rng.choice(patterns.STORY[language]).format(text=beginning)
    return Exchange("story", question, ending, asked, mentioned)


def plot(rng: random.Random, language: str) -> tuple[str, str, Combination, tuple[Combination, ...]]:
    """The beginning and the ending of a story, the combination it is about and the others in it."""
    event = rng.choice((*patterns.STORIES, "lost"))  # "lost" twice: it combines most, so training drops it most
    name, friend, other = rng.sample(words.NAMES, 3)
    noun = rng.choice(patterns.STORIES[event]["things"])
    place, elsewhere = rng.sample(words.PLACES, 2)
    need = rng.choice([need for need in patterns.NEEDS if need != event])
    extra = rng.choice(patterns.STORIES[need]["things"])
    slots = dict(name=name, friend=friend, other=other, noun=noun, extra=extra, place=place,
                 elsewhere=elsewhere)
    beginnings, ending = patterns.STORIES[event][language]
    asked = ("story", event, name.en, noun.en)
    mentioned: tuple[Combination, ...] = ()
    if event == "lost":  # the one event that happens somewhere
        mentioned = (*combinations(name=name, friend=friend, noun=noun, place=place),
                     *combinations(other=other, place=elsewhere))
    beginning, ending = (fill(text, language, **slots) for text in (rng.choice(beginnings), ending))
    return beginning, ending, asked, mentioned


# ---- name
def name(rng: random.Random, language: str) -> Exchange:
    """Asks who the assistant is, often after somebody else has said who they are."""
    which = words.LANGUAGES.index(language)
    greeting, question = rng.choice(patterns.GREETINGS), rng.choice(patterns.NAME_QUESTIONS)
    introduction = fill(patterns.INTRODUCTION[language], language, name=rng.choice(words.NAMES))
    prompt = greeting[which] + (introduction if rng.random() < 0.7 else "") + question[which]
    return Exchange("name", prompt, patterns.NAME_ANSWER[language], ("name", greeting[0], question[0]))


_SINGLE: dict[str, Callable[[random.Random, str], Exchange]] = dict(
    arithmetic=arithmetic, translate=translate, story=story, name=name)


# ---- filling a pattern
def fill(pattern: str, language: str, **slots: Word | int) -> str:
    """The pattern with its slots filled in this language; patterns.py explains the forms of a slot."""
    forms: dict[str, str] = {}
    for role, word in slots.items():
        if isinstance(word, Word):
            forms |= _forms(role, word, language)
        else:
            forms |= _number_forms(role, word, slots["noun"], language)
    return pattern.format(**forms)


@cache
def _forms(role: str, word: Word, language: str) -> dict[str, str]:
    if language == "zh":
        pronoun, one = "他" if word.male else "她", f"一{word.measure}"
        return {role: word.zh, f"one_{role}": one, f"a_{role}": one + word.zh, "measure": word.measure,
                f"{role}s": word.measure + word.zh, f"{role}_he": pronoun, f"{role}_him": pronoun,
                f"{role}_his": pronoun + "的"}
    he, him, his = ("he", "him", "his") if word.male else ("she", "her", "her")
    return {role: word.en, f"a_{role}": word.a, f"{role}s": word.plural, f"{role}_he": he,
            f"{role}_He": he.title(), f"{role}_him": him, f"{role}_his": his}


def _number_forms(role: str, number: int, noun: Word, language: str) -> dict[str, str]:
    things = f"{noun.measure}{noun.zh}" if language == "zh" else f" {noun.en if number == 1 else noun.plural}"
    return {role: str(number), f"{role}_things": f"{number}{things}"}


def combinations(
    place: Word | None = None, colour: Word | None = None, **others: Word
) -> tuple[Combination, ...]:
    """What a sentence with these words combines: the colour with the noun, all others with the place."""
    coloured = (("phrase", colour.en, others["noun"].en),) if colour else ()
    placed = tuple(("at", word.en, place.en) for word in others.values()) if place else ()
    return coloured + placed
