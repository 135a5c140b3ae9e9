"""Random texts and conversations on which two tokenizers, or two chat templates, are compared."""

import random
from collections.abc import Sequence

from minigpt.data.rows import Message

RANGES = ((0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x5FF), (0x900, 0x97F), (0x3040, 0x30FF), (0x4E00, 0x9FFF),
          (0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0x2000, 0x206F), (0x300, 0x36F), (0x0, 0x1F), (0x10000, 0x103FF),
          (0xE000, 0xE00F), (0x20000, 0x2000F))  # fmt: skip
# What tokenizers trip over: spaces, SentencePiece's sign, byte names, control tokens whole and in parts, digits.
TRAPS = (" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u2581", "\u2581a", "<0xE2>", "<unk>", "<s>", "<|im_end|>",
         "<|im_start|>", "<|endoftext|>", "<|", "|>", "<|im_", "user\n", "assistant\n", "12345", "3.14", "a" * 30,
         " " * 17, "é", "e\u0301", "ﬁ", "İ", "\u00a0", "\u200d", "\ufeff", "👩‍👩‍👧", "�", "'s", "don't",
         "\x00")  # fmt: skip


def texts(seed: int, count: int, pieces: Sequence[str] = ()) -> list[str]:
    """`count` texts of mixed scripts, traps and the tokenizer's own `pieces`; the first is empty."""
    draw = random.Random(seed)
    return ["", *(_text(draw, pieces) for _ in range(count - 1))]


def conversations(seed: int, count: int, pieces: Sequence[str] = ()) -> list[list[Message]]:
    """`count` conversations of one to four exchanges, some with a system message, in texts as above."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        messages: list[Message] = []
        if draw.random() < 0.4:
            messages.append({"role": "system", "content": _text(draw, pieces)})
        for _ in range(draw.randint(1, 4)):
            messages.append({"role": "user", "content": _text(draw, pieces)})
            messages.append({"role": "assistant", "content": _text(draw, pieces)})
        found.append(messages)
    return found


def _text(draw: random.Random, pieces: Sequence[str]) -> str:
    return "".join(_part(draw, pieces) for _ in range(draw.choice((1, 3, 10, 40))))


def _part(draw: random.Random, pieces: Sequence[str]) -> str:
    kind = draw.random()
    if pieces and kind < 0.45:
        piece = draw.choice(pieces)
        return piece[: draw.randint(1, len(piece))] if draw.random() < 0.2 else piece
    if kind < 0.6:
        return draw.choice(TRAPS)
    low, high = draw.choice(RANGES)
    return "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 6)))
