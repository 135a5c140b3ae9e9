"""Tests that every installation has: cloze and choice from the interpreter's own documentation, and grammar in two
languages. Nothing is downloaded. The first two depend on the version of Python, as its documentation does."""

import builtins
import importlib
import inspect
import random
import re
from collections.abc import Iterator
from itertools import product

from minigpt.evaluate.choices import Choice

CHOICES, MOST = 4, 300  # answers to a question, questions of a test
DOCUMENTED = (
    "builtins", "math", "random", "string", "re", "json", "os", "os.path", "shutil", "itertools", "functools",
    "collections", "datetime", "time", "statistics", "textwrap", "pathlib", "operator", "heapq", "bisect", "copy",
    "base64", "csv", "glob", "hashlib", "html", "io", "logging", "pprint", "queue", "socket", "subprocess", "tempfile",
    "threading", "types", "unicodedata", "urllib.parse", "zipfile",
)  # fmt: skip


def _documented() -> Iterator[tuple[str, str, str]]:
    """(module, name, first sentence) of what the interpreter documents, in a fixed order, each sentence once."""
    seen: set[str] = set()
    for module in DOCUMENTED:
        found = importlib.import_module(module)
        for name, value in sorted(vars(found).items()):
            if name.startswith("_") or not (inspect.isroutine(value) or inspect.isclass(value)):
                continue
            doc = value.__doc__ if isinstance(value.__doc__, str) else ""
            sentence = _first_sentence(doc)
            if sentence and sentence not in seen and name.lower() not in sentence.lower():
                seen.add(sentence)
                yield module, name if found is builtins else f"{module}.{name}", sentence


def _first_sentence(doc: str) -> str:
    """The first sentence of a docstring that is prose, if it has 4 to 25 words; else ""."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
        text = " ".join(block.split())
        found = re.match(r"[A-Z][^.:;()<>\[\]{}=|`*]+\.(?= |$)", text)
        if found:
            return found.group() if 4 <= len(found.group().split()) <= 25 else ""
    return ""


def python_choice(seed: int = 0) -> list[Choice]:
    """What a function of Python's library does: its own first sentence among those of three others of its module."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for module, name, sentence in _documented():
        groups.setdefault(module, []).append((name, sentence))
    drawn, found = random.Random(f"{seed} python-choice"), []
    for module, entries in groups.items():
        for name, sentence in entries if len(entries) >= CHOICES else ():
            others = drawn.sample([text for other, text in entries if other != name], CHOICES - 1)
            options = [sentence, *others]
            drawn.shuffle(options)
            context = f"Question: What does {name} do in Python?\nAnswer:"
            found.append(Choice(context, [f" {one}" for one in options], options.index(sentence), module))
    return _some(found, drawn)


def python_cloze(seed: int = 0) -> list[Choice]:
    """The last word of a sentence of Python's documentation, to be written by the model itself (as LAMBADA asks)."""
    drawn = random.Random(f"{seed} python-cloze")
    found = []
    for module, _, sentence in _documented():
        before, _, last = sentence.removesuffix(".").rpartition(" ")
        if len(before.split()) >= 4 and last.isalpha():
            found.append(Choice(before, [f" {last}"], 0, module))
    return _some(found, drawn)


def _some(found: list[Choice], drawn: random.Random) -> list[Choice]:
    return found if len(found) <= MOST else [found[i] for i in sorted(drawn.sample(range(len(found)), MOST))]


# ---- grammar -----------------------------------------------------------------------------------------------

PEOPLE, PLURALS = ("boy", "girl", "teacher", "king"), ("boys", "girls", "teachers", "kings")
THINGS = (("dog", "dogs"), ("box", "boxes"), ("flower", "flowers"), ("book", "books"))
VERBS = (("sings", "sing"), ("sleeps", "sleep"), ("works", "work"), ("smiles", "smile"))
HE, SHE = ("Tom", "John", "Peter"), ("Anna", "Mary", "Lucy")
CHINESE_PEOPLE, CHINESE_ACTS = ("他", "妈妈", "老师", "小明"), ("看书", "吃饭", "唱歌", "写字")
MEASURED = (  # a noun, its measure word, and one that is not
    ("书", "本", "只"), ("猫", "只", "本"), ("纸", "张", "条"), ("鱼", "条", "张"), ("树", "棵", "辆"),
    ("汽车", "辆", "棵"),
)  # fmt: skip
MOVED = (("门", "打开"), ("书", "看完"), ("饭", "吃完"), ("灯", "关上"))


def _english() -> Iterator[tuple[str, str, str]]:
    """(phenomenon, right, wrong)."""
    for (one, many), (sings, sing) in product(zip(PEOPLE, PLURALS, strict=True), VERBS):
        yield "subject and verb", f"The {one} {sings} every day.", f"The {one} {sing} every day."
        yield "subject and verb", f"The {many} {sing} every day.", f"The {many} {sings} every day."
        yield "verb far away", f"The {one} near the trees {sings}.", f"The {one} near the trees {sing}."
    for (one, many), number in product(THINGS, ("two", "three", "many")):
        yield "number of a noun", f"She has {number} {many}.", f"She has {number} {one}."
        yield "this and these", f"These {many} are old.", f"This {many} are old."
    for he, she in product(HE, SHE):
        yield "reflexive", f"{he} hurt himself.", f"{he} hurt herself."
        yield "reflexive", f"{she} hurt herself.", f"{she} hurt himself."
        yield "case", f"{he} saw her and {she} saw him.", f"{he} saw she and {she} saw he."
    for person, (_, many) in product(PEOPLE, THINGS):
        yield "word order", f"The {person} saw the {many}.", f"The {person} the {many} saw."
        yield "past", f"Yesterday the {person} saw {many}.", f"Yesterday the {person} sees {many}."


def _chinese() -> Iterator[tuple[str, str, str]]:
    for person, (thing, right, wrong) in product(CHINESE_PEOPLE, MEASURED):
        yield "量词", f"{person}有一{right}{thing}。", f"{person}有一{wrong}{thing}。"
    for person, act in product(CHINESE_PEOPLE, CHINESE_ACTS):
        yield "正在", f"{person}正在{act}。", f"{person}{act}正在。"
        yield "从来不", f"{person}从来不{act}。", f"{person}不从来{act}。"
        yield "疑问", f"{person}喜欢{act}吗？", f"{person}吗喜欢{act}？"
        yield "处所", f"{person}在家里{act}。", f"{person}{act}在里家。"
    for person, (thing, done) in product(CHINESE_PEOPLE, MOVED):
        yield "把", f"{person}把{thing}{done}了。", f"{person}把{done}{thing}了。"
        yield "了", f"{person}已经把{thing}{done}了。", f"{person}已经把{thing}了{done}。"


def minimal_pairs() -> list[Choice]:
    """A grammatical sentence and the same one with one fault, in English and Chinese, by phenomenon (as BLiMP has)."""
    return [Choice("", [right, wrong], 0, f"{language}: {name}") for language, pairs
            in (("en", _english()), ("zh", _chinese())) for name, right, wrong in dict.fromkeys(pairs)]  # fmt: skip
