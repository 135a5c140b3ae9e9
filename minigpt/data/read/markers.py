"""Control tokens that are written out in training texts.

Text never becomes a control token, so `<|im_end|>` in a document is learned as ten letters. That is rarely what its
author meant: it is counted and reported, and `<|endoftext|>` ends a document wherever it stands.
"""

import re
from collections import Counter
from pathlib import Path

from minigpt.events import Note, Report

END_OF_DOCUMENT = "<|endoftext|>"
# Also those of other model families: ChatML, Llama 2 and 3, Gemma, Mistral, Zephyr.
_NAMES = re.compile(r"<\|\w+\|>|<(?:start|end)_of_turn>|\[/?INST\]|</s>")
_SIGNS = ("<|", "_of_turn>", "INST]", "</s>")  # a search for these is ten times as fast


def names_in(text: str) -> list[str]:
    """The names of control tokens in a text."""
    return _NAMES.findall(text) if any(sign in text for sign in _SIGNS) else []


class Markers:
    """How often the texts of a file have the name of a control token, and what was done about it."""

    def __init__(self, path: Path):
        self.path = path
        self.letters: Counter[str] = Counter()  # stay in the text
        self.splits = 0  # <|endoftext|> inside a line or a row
        self.converted: Counter[str] = Counter()  # rows in ChatML's form -> what they were taken as

    def count(self, text: str) -> None:
        """Look at a text as it will be learned."""
        self.letters.update(names_in(text))

    def tell(self, report: Report) -> None:
        """One note for each thing that was found."""
        if self.splits:
            times = _times(self.splits)
            report(Note(f"{self.path}: {END_OF_DOCUMENT} is written {times} inside a text: a document ends there."))
        for form, count in self.converted.items():
            rows = "1 row is" if count == 1 else f"{count:,} rows are"
            report(Note(f"{self.path}: {rows} written as <|im_start|>…<|im_end|>, and taken as {form} without them."))
        if self.letters:
            found = ", ".join(f"{name} {_times(count)}" for name, count in self.letters.most_common(4))
            report(
                Note(
                    f"{self.path}: control tokens are written out in the text ({found}) and learned as letters. Take "
                    'them out, or write conversations as {"messages": [...]}.'
                )
            )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
