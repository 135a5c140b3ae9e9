"""The bundled data: a small world in English and Chinese, with a test that asks for unseen combinations.

Every row is a plain dict as a user would have it in a JSONL file, drawn from a seed. One combination in six
(a colour with a noun, two numbers, a name with a thing and an event, ...) is held out by a stable hash: no
row of a training stream has it in either language, every test question is about one. All words are taught.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator

from minigpt.data.world import manners, patterns, tasks, words
from minigpt.data.world.tasks import Combination, fill, held_out

MULTI_TURN = 0.5  # share of training conversations with two exchanges
MANNERS = dict(polite=0.3, rambling=0.4, rude=0.3)  # of the answers to requests that SFT learns from
REQUEST_PAIRS = 0.6  # share of preference pairs about requests; the others are about tasks
MISTAKES = 0.5  # share of the solutions in steps that have one
POLITE_LENGTH = {"en": 80, "zh": 30}  # characters
TASKS = tuple(tasks.SHARES)  # read, arithmetic, translate, story, name
PATIENCE = 10_000  # draws without a new row, after which a test split ends

Draft = tuple[dict, list[Combination]]  # a row and what it combines: first what it asks


# ---- the streams
def texts(seed: int, count: int, split: str = "train") -> Iterator[dict]:
    """Draws `count` pretraining texts `{"text"}` of one to six sentences in English, Chinese or both."""
    return _rows("texts", seed, count, split, _text)


def conversations(seed: int, count: int, split: str) -> Iterator[dict]:
    """What SFT learns from: five rows of `instructions`, then one of `requests`, as long as both last."""
    tasks, everyday = instructions(seed, count, split), requests(seed, count, split)
    for number in range(count):
        row = next(everyday if number % 6 == 5 else tasks, None)
        if row is None:
            return
        yield row


def prompts(seed: int, count: int, split: str) -> Iterator[dict]:
    """Draws messages that a user ends `{"prompt", "task", "language"}`: `conversations` without their last answers."""
    for row in conversations(seed, count, split):
        yield {"prompt": row["messages"][:-1], "task": row["task"], "language": row["language"]}


def instructions(seed: int, count: int, split: str) -> Iterator[dict]:
    """Draws conversations `{"messages", "task", "language"}` whose answers `is_correct` can check.

    Training rows have one or two exchanges (`task` is the last one's), test rows one. A test split, here and
    below, never repeats a prompt and ends early when it finds nothing new to ask.
    """
    return _rows("instructions", seed, count, split, _instruction)


def requests(seed: int, count: int, split: str) -> Iterator[dict]:
    """Draws requests `{"messages", "task", "language"}` answered in the mixed MANNERS of real data."""
    return _rows("requests", seed, count, split, _request)


def preferences(seed: int, count: int, split: str) -> Iterator[dict]:
    """Draws pairs `{"prompt", "chosen", "rejected", "task", "language"}`: short and polite answers preferred.

    About a request (task "request") the chosen answer is polite and the rejected one rambles or is rude.
    About another task both give the right answer, the rejected one wrapped in the wrong manner.
    """
    return _rows("preferences", seed, count, split, _preference)


def solutions(seed: int, count: int, split: str) -> Iterator[dict]:
    """Draws sums and differences done in steps `{"prompt", "completions", "labels", "task", "language"}`.

    About half of them have a mistake in one step; a label says whether all is right up to the end of its step.
    """
    return _rows("solutions", seed, count, split, _solution)


def labelled(seed: int, count: int, split: str) -> Iterator[dict]:
    """Answers `{"prompt", "completion", "label", "task", "language"}`: of each of `preferences` one side in turn."""
    for number, pair in enumerate(preferences(seed, count, split)):
        good = number % 2 == 0
        yield dict(prompt=pair["prompt"], completion=pair["chosen" if good else "rejected"], label=good,
                   task=pair["task"], language=pair["language"])


def _rows(stream: str, seed: int, count: int, split: str,
          draw: Callable[[random.Random, str], Draft]) -> Iterator[dict]:
    """Draws until `count` rows fit the split, or until a test split has run out of questions."""
    assert split in ("train", "test"), split
    rng = random.Random(f"{seed} {stream} {split}")  # hashed with SHA-512: the same everywhere
    asked: set[str] = set()
    missed = 0
    while count > 0 and missed < PATIENCE:
        row, combined = draw(rng, split)
        missed += 1
        if split == "test":
            question = row["text"] if "text" in row else row.get("prompt", row.get("messages"))[0]["content"]
            if not any(map(held_out, combined[:1])) or question in asked:
                continue
            asked.add(question)
        elif any(map(held_out, combined)):
            continue
        yield row
        count, missed = count - 1, 0


# ---- checking answers
def is_correct(row: dict, answer: str) -> bool:
    """Whether `answer` is the row's own (last) answer, up to white space around it."""
    return answer.strip() == row["messages"][-1]["content"].strip()


def keeps_manner(answer: str) -> bool:
    """Whether an answer to a request is short and polite, and neither rude, rambling nor babble.

    A rule on the text alone: one or two complete sentences, a polite phrase, no impolite one, and no word (in
    Chinese: no character) more than three times. It is for requests: "Tom has the kite." is not polite.
    """
    text = answer.strip().lower()
    pieces = re.findall(r"[a-z]+|[\u4e00-\u9fff]", text)
    chinese = any(piece >= "\u4e00" for piece in pieces)
    return (0 < len(text) <= POLITE_LENGTH["zh" if chinese else "en"]
            and text[-1] in ".!。！"
            and len(re.findall(r"[.!?。！？]", text)) <= 2
            and any(mark in text for mark in manners.POLITE_MARKS)
            and not any(mark in text for mark in manners.IMPOLITE_MARKS)
            and max(Counter(pieces).values()) <= 3)


# ---- drawing a conversation or a pair
def _instruction(rng: random.Random, split: str) -> Draft:
    language = rng.choice(words.LANGUAGES)
    turns = 2 if split == "train" and rng.random() < MULTI_TURN else 1
    exchanges = tasks.conversation(rng, language, turns, tasks.LEARNED if split == "train" else tasks.TESTED)
    messages = []
    for exchange in exchanges:
        messages += [_message("user", exchange.question), _message("assistant", exchange.answer)]
    return dict(messages=messages, task=exchanges[-1].task, language=language), _combinations(exchanges)


def _request(rng: random.Random, split: str) -> Draft:
    language = rng.choice(words.LANGUAGES)
    question, kind, topic, asked = _ask(rng, language)
    manner = rng.choices(tuple(MANNERS), tuple(MANNERS.values()))[0]
    messages = [_message("user", question), _message("assistant", _reply(rng, language, kind, topic, manner))]
    return dict(messages=messages, task="request", language=language), [asked]


def _preference(rng: random.Random, split: str) -> Draft:
    language, manner = rng.choice(words.LANGUAGES), rng.choice(("rambling", "rude"))
    if rng.random() < REQUEST_PAIRS:
        task = "request"
        question, kind, topic, asked = _ask(rng, language)
        chosen, rejected = (_reply(rng, language, kind, topic, each) for each in ("polite", manner))
        combined = [asked]
    else:
        exchanges = tasks.conversation(rng, language)
        task, question, chosen, *_ = exchanges[0]
        rejected = rng.choice(manners.WRAPPED[manner][language]).format(answer=_sentence(chosen))
        combined = _combinations(exchanges)
    prompt = [_message("user", question)]
    return dict(prompt=prompt, chosen=chosen, rejected=rejected, task=task, language=language), combined


def _solution(rng: random.Random, split: str) -> Draft:
    language = rng.choice(words.LANGUAGES)
    question, steps, combined = tasks.in_steps(rng, language, rng.random() < MISTAKES)
    lines, labels = zip(*steps, strict=True)
    row = dict(prompt=[_message("user", question)], completions=list(lines), labels=list(labels))
    return row | dict(task="steps", language=language), combined


def _ask(rng: random.Random, language: str) -> tuple[str, str, str, Combination]:
    """A request, the kind of answer it wants, its topic, and the combination it is."""
    which = words.LANGUAGES.index(language)
    kind, *wordings = rng.choice(manners.REQUESTS)
    topic, greeting = rng.choice(manners.TOPICS), rng.choice(patterns.GREETINGS)
    question = greeting[which] + wordings[which].format(topic=topic[which])
    return question, kind, topic[which], ("request", wordings[0], topic[0])


def _reply(rng: random.Random, language: str, kind: str, topic: str, manner: str) -> str:
    wordings = manners.POLITE[kind] if manner == "polite" else manners.IMPOLITE[manner]
    return rng.choice(wordings[language]).format(topic=topic)


def _message(role: str, content: str) -> dict:
    return dict(role=role, content=content)


def _combinations(exchanges: list[tasks.Exchange]) -> list[Combination]:
    return [combination for exchange in exchanges for combination in (exchange.asked, *exchange.mentioned)]


def _sentence(answer: str) -> str:
    return answer if answer[-1] in ".。" else answer + words.STOP["en" if answer.isascii() else "zh"]


# ---- drawing a text
def _text(rng: random.Random, split: str) -> Draft:
    kind = rng.choices(tuple(_TEXTS), tuple(_TEXTS.values()))[0]
    text, combined = kind(rng, rng.choice(words.LANGUAGES))
    return dict(text=text), combined


Drawn = tuple[str, list[Combination]]


def _story(rng: random.Random, language: str) -> Drawn:
    beginning, ending, asked, mentioned = tasks.plot(rng, language)
    return beginning + words.SPACE[language] + ending, [asked, *mentioned]


def _scene(rng: random.Random, language: str) -> Drawn:
    pattern = rng.choice(patterns.SCENES[language])
    name, friend = rng.sample(words.NAMES, 2)
    slots = dict(name=name, friend=friend, noun=rng.choice(words.NOUNS), colour=rng.choice(words.COLOURS),
                 place=rng.choice(words.PLACES))
    return fill(pattern, language, **slots), list(tasks.combinations(**slots))


def _both_languages(rng: random.Random, language: str) -> Drawn:
    kind = rng.choice(tuple(patterns.FACTS))
    columns = (words.NAMES, words.NOUNS, words.COLOURS, words.PLACES)
    slots = tasks.fact_slots(kind, *map(rng.choice, columns))
    order = words.LANGUAGES if language == "en" else words.LANGUAGES[::-1]
    sentences = (fill(patterns.FACTS[kind][each][0], each, **slots) for each in order)
    return " ".join(sentences), list(tasks.combinations(**slots))


def _dictionary(rng: random.Random, language: str) -> Drawn:
    chosen = rng.sample(words.NOUNS + words.DRINKS + words.COLOURS + words.PLACES + words.NAMES, 2)
    lines = (rng.choice(patterns.DICTIONARY).format(en=word.en, zh=word.zh) for word in chosen)
    return "\n".join(lines), []


def _phrasebook(rng: random.Random, language: str) -> Drawn:
    drawn = [tasks.phrase(rng) for _ in range(2)]
    lines = (rng.choice(patterns.PHRASEBOOK).format(**phrases) for phrases, _ in drawn)
    return "\n".join(lines), [combination for _, combination in drawn]


def _sums(rng: random.Random, language: str) -> Drawn:
    """Some in a row: "3 plus 5 is 8. 4 plus 5 is 9. 5 plus 5 is 10."; or in steps of ten, or minus."""
    operation, step = rng.choice(("plus", "minus")), rng.choice((1, 10))
    firsts = range(rng.randint(1, tasks.MAX_OPERAND - step), tasks.MAX_OPERAND + 1, step)[:3]
    b = rng.randint(1, tasks.MAX_OPERAND if operation == "plus" else firsts[0])
    sums = [tasks.sum_of(operation, a, b) for a in firsts]
    _, equation, *_ = patterns.ARITHMETIC[operation][language]
    sentences = (equation.format(a=a, b=b, c=c) + words.STOP[language] for a, b, c, _ in sums)
    return words.SPACE[language].join(sentences), [combination for *_, combination in sums]


def _questions(rng: random.Random, language: str) -> Drawn:
    exchanges = tasks.conversation(rng, language, rng.randint(1, 2))
    return "\n".join(f"{each.question}\n{each.answer}" for each in exchanges), _combinations(exchanges)


def _retold(rng: random.Random, language: str) -> Drawn:
    """Facts and the same facts in another order: every one must be looked up, which teaches reading quickly."""
    facts = tasks.facts(rng, language, rng.randint(2, 4))
    space = words.SPACE[language]
    told, again = (space.join(fact.sentence for fact in order) for order in (facts, rng.sample(facts, len(facts))))
    return rng.choice(patterns.RETOLD[language]).format(text=told, again=again), [fact.combination for fact in facts]


def _counting(rng: random.Random, language: str) -> Drawn:
    a = rng.randint(0, 2 * tasks.MAX_OPERAND - 2)
    return patterns.COUNTING[language].format(a=a, b=a + 1, c=a + 2), []


def _about_itself(rng: random.Random, language: str) -> Drawn:
    return rng.choice(patterns.ABOUT_ITSELF[language]), []


_TEXTS = {_story: 0.14, _scene: 0.12, _both_languages: 0.08, _dictionary: 0.08, _phrasebook: 0.12, _sums: 0.12,
          _questions: 0.12, _retold: 0.16, _counting: 0.04, _about_itself: 0.02}
