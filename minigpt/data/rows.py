"""The rows and texts of a file as training takes them, with notes on what is omitted, split or taken otherwise."""

from collections.abc import Iterator
from pathlib import Path

from minigpt.data.parse.marked import unmarked
from minigpt.data.parse.unused import UnusedKeys
from minigpt.data.read.markers import Markers
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.data.read.sources import read_rows
from minigpt.events import Report, silent


def rows_of(path: Path, report: Report = silent, all_used: bool = False) -> Iterator[Row | BadRow]:
    """Every row of a file; at its end a note for each key that is not used (but not where the reader says that all
    are used) and each kind of control token in texts.

    Rows whose text is written in a known form of control tokens are split or turned into what they mean. See
    `read_rows` for bad rows and errors.
    """
    markers, unused = Markers(path), UnusedKeys(path)
    for row in read_rows(path, report):
        if isinstance(row, Row) and not all_used:
            unused.count(row.value)
        yield from unmarked(row, markers)
    unused.tell(report)
    markers.tell(report)
