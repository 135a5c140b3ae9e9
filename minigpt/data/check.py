"""What training would make of some data: forms, counts, lengths, truncation, duplicates, bad rows, an example."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from minigpt.data.examples import Conversation, Preference, Text
from minigpt.data.parse.fields import RowError
from minigpt.data.prepare import Item, Reader, digest_of
from minigpt.errors import DataError
from minigpt.text.chatml import render
from minigpt.text.tokenizer import Tokenizer


@dataclass
class DataReport:
    """Counts over all rows; `lengths` are tokens per row, `example` is one rendered row as (text, learned) runs."""

    stage: str
    forms: Counter = field(default_factory=Counter)  # how the rows are written, see formats.py
    splits: Counter = field(default_factory=Counter)
    tokens: Counter = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    learned_tokens: int = 0
    too_long: int = 0
    duplicates: int = 0
    across_splits: int = 0
    bad: list[str] = field(default_factory=list)
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
    reader.config = reader.config.model_copy(update={"skip_bad": True})
    report = DataReport(reader.stage)
    seen: dict[int, str] = {}
    for item in reader:
        if isinstance(item.content, Text) and not item.content.text:
            continue  # the end of a text file
        try:
            _count(item, tokenizer, context, report)
        except DataError as error:  # the chat template of an imported model refuses it
            reader.reject(RowError(item.where, error.message.rstrip("."), error.hint))
            continue
        key = digest_of(item.content)
        report.duplicates += key in seen
        report.across_splits += seen.setdefault(key, item.split) != item.split
    report.bad, report.forms = reader.bad, reader.forms
    return report


def _count(item: Item, tokenizer: Tokenizer, context: int, report: DataReport) -> None:
    content = item.content
    if isinstance(content, Text):
        ids, mask = tokenizer.encode(content.text), None
    elif isinstance(content, Conversation):
        ids, mask = render(tokenizer, content.messages)
    else:
        assert isinstance(content, Preference)
        ids, mask = render(tokenizer, content.prompt + content.chosen)
        other, _ = render(tokenizer, content.prompt + content.rejected)
        ids = max(ids, other, key=len)
    report.splits[item.split] += 1
    report.tokens[item.split] += len(ids)
    report.lengths.append(len(ids))
    report.too_long += report.stage != "pretrain" and len(ids) > context + 1
    if mask is not None:
        report.learned_tokens += sum(mask)
    if not report.example:
        report.example = _runs(content, tokenizer)


def _runs(content: Text | Conversation | Preference, tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    if isinstance(content, Text):
        return [(content.text[:400], True)]
    messages = content.messages if isinstance(content, Conversation) else content.prompt + content.chosen
    ids, mask = render(tokenizer, messages)
    runs: list[tuple[list[int], bool]] = []
    for token, learned in zip(ids, mask, strict=True):
        if not runs or runs[-1][1] != bool(learned):
            runs.append(([], bool(learned)))
        runs[-1][0].append(token)
    return [(tokenizer.show(tokens), learned) for tokens, learned in runs]
