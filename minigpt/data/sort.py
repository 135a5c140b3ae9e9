"""What each file of some sources holds: texts, conversations, pairs, …, so that each can go to the stage it fits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from minigpt.data.examples import Conversation, LabelledAnswer, Preference, Steps, Text
from minigpt.data.parse.fields import RowError, fields_of
from minigpt.data.parse.formats import parse_row
from minigpt.data.parse.layouts import detect, is_prompt
from minigpt.data.read.named import resolve
from minigpt.data.read.raw_rows import Row
from minigpt.data.read.suffixes import is_text
from minigpt.data.rows import rows_of
from minigpt.events import Report, silent

LOOKED_AT = 1000  # rows of each file
KINDS = ("texts", "conversations", "pairs", "labelled steps", "labelled answers", "prompts", "mixed", "nothing")
KIND_OF = {Text: "texts", Conversation: "conversations", Preference: "pairs", Steps: "labelled steps",
           LabelledAnswer: "labelled answers"}  # fmt: skip


@dataclass(frozen=True)
class FileKind:
    """A file and which of KINDS its rows are; `why` says so in words.

    `kinds` and `forms` count the rows looked at, by kind and by how they are written (formats.py); `bad` is the first
    row that is none of them.
    """

    source: str
    path: Path
    kind: str
    rows: int
    why: str
    kinds: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    bad: str = ""


def kinds_of_files(
    sources: Sequence[str], cache: Path, report: Report = silent, limit: int = LOOKED_AT
) -> list[FileKind]:
    """Every file that the sources name, in order, each with the kind of its first `limit` rows.

    A file of several kinds is "mixed", one without a usable row "nothing". Raises DataError for sources without files.
    """
    return [_kind_of(source, path, limit) for source in sources for path in resolve([source], cache, report)]


def _kind_of(source: str, path: Path, limit: int) -> FileKind:
    if is_text(path):
        return FileKind(source, path, "texts", 0, f"a {path.suffix} file is a text", Counter(texts=1), Counter(text=1))
    kinds, forms, bad, rows = Counter(), Counter(), "", 0
    for row in islice(rows_of(path), limit):
        rows += 1
        try:
            kinds[_kind(row)] += 1
            forms[_form(row)] += 1
        except RowError as error:
            bad = bad or str(error)
    kind = next(iter(kinds)) if len(kinds) == 1 else "mixed" if kinds else "nothing"
    return FileKind(source, path, kind, rows, _why(kinds, rows, bad), kinds, forms, bad)


def _kind(row: Row) -> str:
    """The kind of a row. Raises RowError when it has none."""
    if isinstance(row, Row) and isinstance(row.value, dict) and is_prompt(fields_of(row.value)):
        return "prompts"
    return KIND_OF[type(parse_row(row))]


def _form(row: Row) -> str:
    return "prompt" if isinstance(row.value, dict) and is_prompt(fields_of(row.value)) else detect(row.value)


def _why(kinds: Counter[str], rows: int, bad: str) -> str:
    found = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()) or "no usable row"
    unusable = rows - kinds.total()
    text = found if not unusable else f"{found}, {unusable:,} unusable ({bad})"
    return text if rows < LOOKED_AT else f"{text} in the first {rows:,} rows"
