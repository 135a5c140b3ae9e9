"""Texts and conversations on which an export and its source must agree: random ones, made to be awkward."""

from collections.abc import Iterator

import numpy as np

from minigpt.text.messages import Message
from minigpt.text.tokenizer import FIRST_PIECE, SPECIALS, Tokenizer

SPACE_MARK = "\u2581"  # stands for a space inside other tools, which cannot always tell the two apart
RANGES = [(0x20, 0x7F), (0x20, 0x7F), (0x00, 0x20), (0xA0, 0x250), (0x300, 0x370), (0x400, 0x460), (0x5D0, 0x5EB),
          (0x600, 0x6FF), (0x900, 0x97F), (0x2000, 0x2070), (0x3040, 0x3100), (0x4E00, 0x4F00), (0xAC00, 0xAD00),
          (0xE000, 0xE010), (0xFE00, 0xFE10), (0xFF00, 0xFFEF), (0x1F300, 0x1F650), (0x10FFF0, 0x10FFFF)]  # fmt: skip
WORDS = ["the", "Hello", "world", "cat", "don't", "x=1", "http://a.b/c?d=e", "3.14159", "2026", "猫", "你好，世界",
         "naïve", "👩‍👩‍👧", "é", "Привет", "שלום", "नमस्ते", "한국어"]  # fmt: skip
GAPS = [" ", " ", " ", "  ", "", "\n", "\n\n", "\t", "\r\n", "   ", "\u00a0", "\u3000"]
TRAPS = [*SPECIALS[:5], SPACE_MARK, f"{SPACE_MARK}a",
         "<0x41>", "<|", "|>", "<s>", "</s>", "[INST]", "assistant", "<|im_start|>assistant\n"]


def random_texts(tokenizer: Tokenizer, count: int, seed: int = 0, marks: bool = False) -> Iterator[str]:
    """Texts of words, pieces of the tokenizer, stray characters, white space and the names of special tokens.

    With `marks` U+2581 is among them.
    """
    rng = np.random.default_rng(seed)
    pieces = [token.decode("utf-8", "ignore") for token in tokenizer.token_bytes[FIRST_PIECE:]] or WORDS
    for _ in range(count):
        parts = [_part(rng, pieces) for _ in range(rng.integers(1, 16))]
        yield "".join(parts) if marks else "".join(parts).replace(SPACE_MARK, "")


def random_conversations(
    tokenizer: Tokenizer, count: int, seed: int = 0, marks: bool = False
) -> Iterator[list[Message]]:
    """Conversations with and without a system message, of one to three turns, the last one the user's."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        roles = ["system"] * int(rng.integers(0, 2)) + ["user", "assistant"] * int(rng.integers(0, 3)) + ["user"]
        texts = random_texts(tokenizer, len(roles), int(rng.integers(1 << 31)), marks)
        yield [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def _part(rng: np.random.Generator, pieces: list[str]) -> str:
    kind = rng.integers(0, 10)
    if kind < 3:
        return str(rng.choice(WORDS)) + str(rng.choice(GAPS))
    if kind < 6:
        return "".join(pieces[i] for i in rng.integers(0, len(pieces), rng.integers(1, 6)))
    if kind < 8:
        first, end = RANGES[rng.integers(0, len(RANGES))]
        return "".join(chr(rng.integers(first, end)) for _ in range(rng.integers(1, 6)))
    return str(rng.choice(GAPS if kind == 8 else TRAPS))
