"""Texts as metrics meet them: of two languages, empty, repetitive, punctuation only, emoji, combining marks."""

import numpy as np

WORDS = "the a cat dog sat on mat ran river it's don't U.S. 3.14 well-known Hello, world! yes no"
PIECES = "她 在 花园 里 看见 一只 猫 。 今天 天气 很好 ， 我们 去 河边 ３ 个 苹果 ！"
ENGLISH, CHINESE = WORDS.split(), PIECES.split()
ODD = ["", " ", "...", "?!", "_", "a", "猫", "😀 😀", "e\u0301", "ﬁne", "İ", "\u3000", "a\tb\nc", "&quot;x", "<b>"]


def text(generator: np.random.Generator) -> str:
    """A text of 0 to 30 words, mostly of one language."""
    kind = generator.integers(0, 10)
    if kind == 0:
        return ODD[generator.integers(0, len(ODD))]
    words = {1: ["x"], 2: ENGLISH + CHINESE + ODD}.get(kind, ENGLISH if kind < 7 else CHINESE)
    joined = "" if words is CHINESE and generator.integers(0, 2) else " "
    return joined.join(words[i] for i in generator.integers(0, len(words), generator.integers(0, 30)))


def changed(original: str, generator: np.random.Generator) -> str:
    """The text with some characters lost and some pieces moved: an answer that is partly right."""
    pieces = original.split(" ")
    generator.shuffle(pieces[: max(1, len(pieces) // 2)])
    return "".join(c for c in " ".join(pieces) if generator.random() > 0.05)


def pairs(count: int, seed: int = 0) -> list[tuple[str, list[str]]]:
    """(answer, one to three right answers), some of them equal, near or unrelated."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(count):
        references = [text(generator) for _ in range(generator.choice([1, 1, 1, 2, 3]))]
        near = references[generator.integers(0, len(references))]
        answer = (near, changed(near, generator), changed(near, generator), text(generator))[generator.integers(0, 4)]
        found.append((answer, references))
    return found
