"""What a stage learns from, as a stream: the rows and texts of its sources, checked, each in one of the two splits."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from minigpt.data.examples import Example, Prompt, Text
from minigpt.data.forms import WORLD, Form
from minigpt.data.parse.fields import RowError, fields_of
from minigpt.data.parse.formats import parse_row
from minigpt.data.parse.layouts import detect, other_keys
from minigpt.data.read.markers import Markers
from minigpt.data.read.named import resolve
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.data.read.suffixes import is_text
from minigpt.data.read.text import read_text
from minigpt.data.rows import rows_of
from minigpt.events import Report, silent


@dataclass(frozen=True)
class Sources:
    """What a stage is to learn from, as the configuration's section [data] has it.

    With `validation` sources those are held out and nothing else is; else a `validation_fraction` of the others.
    """

    train: Sequence[str]
    validation: Sequence[str] = ()
    validation_fraction: float = 0.05
    skip_bad: bool = False
    world_rows: int = 0
    copies: int = 1  # of the training text, every second one with BPE-dropout
    bpe_dropout: float = 0.1
    world_beside: int = 0  # rows that the world draws beside these (see World)


@dataclass
class Item:
    """One parsed row or one block of a text file. `split` is "train" or "validation"."""

    where: str
    content: Example
    split: str
    ends_document: bool = True


@dataclass
class Reader:
    """Streams the usable items of a stage's sources and counts the rest.

    A bad row raises DataError with its `file:line`, or is counted in `bad` when `skip_bad` is set. Rows go to
    the validation split by a hash of their content, so that equal rows are always on one side; of text files
    the last part is held out.
    """

    stage: str
    form: Form
    sources: Sources
    seed: int
    cache: Path
    report: Report = silent
    bad: list[str] = field(default_factory=list)
    lost: int = 0  # lines of bad rows; more than `bad` has, where a quotation of a CSV file took others with it
    layouts: Counter[str] = field(default_factory=Counter)  # how the usable rows are written, see formats.py
    rows: int = 0

    def __iter__(self) -> Iterator[Item]:
        separate = self.sources.validation
        yield from self._items(self.sources.train, 0.0 if separate else self.sources.validation_fraction)
        yield from self._items(separate, 1.0)

    def _items(self, sources: Sequence[str], held_out: float) -> Iterator[Item]:
        for source in sources:
            if source == WORLD:
                yield from self._world(held_out)
                continue
            for path in resolve([source], self.cache, self.report):
                if is_text(path):
                    yield from self._text(path, held_out)
                else:
                    yield from self._parsed(rows_of(path, self.report, self.form.prompts), held_out)

    def _text(self, path: Path, held_out: float) -> Iterator[Item]:
        if not self.form.stream:
            self.reject(RowError(str(path), f"a text file cannot train {self.stage}", "Give rows, as .jsonl."))
            return
        markers = Markers(path)
        for split, start, stop in (("train", 0.0, 1.0 - held_out), ("validation", 1.0 - held_out, 1.0)):
            blocks = read_text(path, start, stop, markers) if start < stop else ()
            for block, following in _with_next(blocks):
                self.layouts["text"] += 1
                self.rows += 1
                yield Item(block.where, Text(block.text), split, block.ends_document or following is None)
        markers.tell(self.report)

    def _parsed(self, rows: Iterator[Row | BadRow], held_out: float) -> Iterator[Item]:
        for row in rows:
            try:
                content = self._accepted(parse_row(row, self.form.prompts), row.where)
            except RowError as error:
                self.reject(error)
                continue
            if self.form.prompts:
                content = replace(content, others=other_keys(fields_of(row.value)))
            self.layouts["prompt" if isinstance(content, Prompt) else detect(row.value)] += 1
            self.rows += 1
            yield Item(row.where, content, split_of(content, self.seed, held_out))

    def _accepted(self, example: Example, where: str) -> Example:
        """What the stage learns from an example. Raises RowError when that is nothing."""
        if (content := self.form.accept(example)) is None:
            kind = re.sub(r"(?<!^)([A-Z])", r" \1", type(example).__name__).lower()  # LabelledAnswer: labelled answer
            reason = f"this row is a {kind}, but {self.stage} needs {self.form.needs}"
            raise RowError(where, reason, f"A row for {self.stage} looks like this: {self.form.example}")
        return content

    def _world(self, held_out: float) -> Iterator[Item]:
        """The built-in world brings its own split: what is held out combines things as no training row does.

        `held_out` 0 omits the held-out rows, 1 the others.
        """
        world, count = self.form.world, self.sources.world_rows
        wanted = [(world, "train", count, 0.0)] * (held_out < 1)
        wanted += [(world, "test", count // 20 + 1, 1.0)] * (held_out > 0)
        if world.beside and held_out < 1:
            wanted.append((world.beside, "train", self.sources.world_beside, 0.0))
        for drawing, split, rows, own in wanted:
            drawn = (Row(f"{WORLD}:{i}", row) for i, row in enumerate(drawing.draw(self.seed, rows, split), 1))
            yield from self._parsed(drawn, own)

    def reject(self, error: RowError) -> None:
        """Count a bad row, or raise its error when bad rows are not to be skipped."""
        if not self.sources.skip_bad:
            raise error
        self.bad.append(str(error))
        self.lost += error.lines


def _with_next(blocks: Iterable) -> Iterator[tuple]:
    """Each block with the one after it; None after the last."""
    before = None
    for block in blocks:
        if before is not None:
            yield before, block
        before = block
    if before is not None:
        yield before, None


def split_of(content: Example, seed: int, held_out: float) -> str:
    """ "train" or "validation", decided by the content alone."""
    return "validation" if digest_of(content, f"{seed} ") < held_out * 2**64 else "train"


def digest_of(content: Example, salt: str = "") -> int:
    """A number below 2**64 that equal rows share."""
    text = f"{salt}{content!r}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
