"""What training would make of some data: forms, counts, lengths, truncation, duplicates, bad rows, an example."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from minigpt.data.examples import Example, Text
from minigpt.data.forms import Tokens
from minigpt.data.parse.fields import RowError
from minigpt.data.reader import Item, Reader, digest_of
from minigpt.errors import DataError
from minigpt.text.tokenizer import Tokenizer


@dataclass
class DataReport:
    """Counts over all rows; `lengths` are tokens per row, `example` is one rendered row as (text, learned) runs."""

    stage: str
    stream: bool  # text without borders, all of which is learned
    omits: bool  # examples that are too long, instead of cutting them
    forms: Counter = field(default_factory=Counter)  # how the rows are written, see formats.py
    splits: Counter = field(default_factory=Counter)
    tokens: Counter = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    learned_tokens: int = 0
    too_long: int = 0
    duplicates: int = 0
    across_splits: int = 0
    bad: list[str] = field(default_factory=list)
    lost_lines: int = 0  # of bad rows
    example: list[tuple[str, bool]] = field(default_factory=list)

    def as_dict(self) -> dict:
        """For JSON: everything but the single lengths."""
        values = {name: value for name, value in vars(self).items() if name != "lengths"}  # asdict breaks Counters
        return values | {"histogram": self.histogram()}

    def histogram(self, bins: int = 8) -> list[tuple[int, int, int]]:
        """(from, to, rows) over the token lengths."""
        if not self.lengths:
            return []
        low, high = min(self.lengths), max(self.lengths) + 1
        counts, edges = np.histogram(self.lengths, bins=min(bins, high - low), range=(low, high))
        edges = np.ceil(edges)
        return [(int(a), int(b) - 1, int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def check(reader: Reader, tokenizer: Tokenizer, context: int) -> DataReport:
    """Read everything once, skipping bad rows, and report. Keeps 8 bytes per row to find duplicates."""
    reader.sources = replace(reader.sources, skip_bad=True)
    report = DataReport(reader.stage, reader.form.stream, not reader.form.cut)
    seen: dict[int, str] = {}
    for item in reader:
        try:
            _count(item, reader, tokenizer, context, report)
        except DataError as error:  # the chat template of an imported model refuses it
            reader.reject(RowError(item.where, error.message.rstrip("."), error.hint))
            continue
        key = digest_of(item.content)
        report.duplicates += key in seen
        report.across_splits += seen.setdefault(key, item.split) != item.split
    report.bad, report.lost_lines, report.forms = reader.bad, reader.lost, reader.layouts
    return report


def _count(item: Item, reader: Reader, tokenizer: Tokenizer, context: int, report: DataReport) -> None:
    sequences = next(reader.form.encode(tokenizer, [item.content]))
    if isinstance(sequences, DataError):
        raise sequences
    longest = max(len(ids) for ids, _ in sequences)
    report.splits[item.split] += 1
    report.tokens[item.split] += longest
    report.lengths.append(longest)
    report.too_long += not report.stream and longest > context + 1
    report.learned_tokens += sum(map(bool, sequences[0][1] or ()))
    if not report.example:
        report.example = _example(item.content, reader, tokenizer, sequences)


def _example(content: Example, reader: Reader, tokenizer: Tokenizer, sequences: list[Tokens]) -> list[tuple[str, bool]]:
    """The (text, learned) runs of one example, each of its sequences under its name."""
    if isinstance(content, Text):
        return [(tokenizer.quoted(content.text[:400]), True)]
    found: list[tuple[str, bool]] = []
    for name, (ids, mask) in zip(reader.form.names, sequences, strict=True):
        found += [(f"{name}:\n", False)] * bool(name)
        for learned, run in groupby(zip(ids, mask or [1] * len(ids), strict=True), lambda pair: bool(pair[1])):
            found.append((tokenizer.show_quoted([token for token, _ in run]), learned))
        found += [("\n", False)] * bool(name)
    return found
