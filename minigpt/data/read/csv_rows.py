"""Rows of .csv and .tsv files, each a dict of its columns.

A quotation that is not closed takes the lines after it with it, up to the next quotation mark or the end of the file.
Such lines are never lost in silence: where they look like rows of their own, reading goes on with the second of them;
else the row that is reported names all of them.
"""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from minigpt.data.read.raw_rows import MAX_ROW, BadRow, Row, checked
from minigpt.events import Note, Report, silent

_QUOTES = 'Put quotes around texts with commas or line breaks, and write a quote inside them as "".'


def csv_rows(path: Path, file: TextIO, delimiters: str, report: Report = silent) -> Iterator[Row | BadRow]:
    """One row for each line after the header; the delimiter is the one of `delimiters` that the header has most of."""
    csv.field_size_limit(MAX_ROW - 1)  # the module's own limit of 128 KiB is less than a long document
    lines = _Lines(file)
    delimiter = max(delimiters, key=lines.first.count)  # spreadsheets of some countries write semicolons
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    table = _Table(path, lines, delimiter)
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield table.broken(f"not valid CSV: {error}", _QUOTES)
            continue
        if not cells:
            continue
        if table.header:
            yield table.row(cells)
        elif bad := table.begin(cells):
            yield bad
            break
    table.tell(report)


class _Lines:
    """The lines of a file; `row` are those of the current row, which starts on line `number`."""

    def __init__(self, file: TextIO):
        self.file, self.number, self.row = file, 1, []
        self.first = file.readline(MAX_ROW)
        self._next = deque([self.first])

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._next.popleft() if self._next else self.file.readline(MAX_ROW)
        if not line:
            raise StopIteration
        self.row.append(line)
        return line

    def begin_row(self) -> None:
        self.number, self.row = self.number + len(self.row), []

    def put_back(self) -> None:
        """All lines of the row but the first come again."""
        self._next.extendleft(reversed(self.row[1:]))
        del self.row[1:]

    @property
    def last(self) -> int:
        return self.number + max(len(self.row), 1) - 1


class _Table:
    """What is known of a file's rows: its header, and which of its rows may have swallowed others."""

    def __init__(self, path: Path, lines: _Lines, delimiter: str):
        self.path, self.lines, self.delimiter = path, lines, delimiter
        self.header: list[str] = []
        self._doubtful: list[str] = []

    def begin(self, header: list[str]) -> BadRow | None:
        """Take the header; returns its fault."""
        row = self._checked(header, header)
        self.header = header
        return row if isinstance(row, BadRow) else None

    def row(self, cells: list[str]) -> Row | BadRow:
        """The row of these cells."""
        if len(cells) != len(self.header):
            names = ", ".join(f'"{name}"' for name in self.header[:20])
            reason = f"the row has {len(cells)} columns, but the header has {len(self.header)} ({names})"
            return self.broken(reason, f'Put quotes around texts with "{self.delimiter}" or a line break.')
        if len(self.lines.row) > 2 and all(map(self._is_row, self.lines.row[1:-1])):
            if self.delimiter == "\t":  # no text has as many tabs in each of its lines
                return self.broken("a quotation goes on over the next rows", _QUOTES)
            self._doubtful.append(f"lines {self.lines.number:,} to {self.lines.last:,}")
        return self._checked(self.header, cells)

    def _checked(self, header: list[str], cells: list[str]) -> Row | BadRow:
        values = dict(zip(header, cells, strict=True))
        row = checked(self.path, self._where, values, "\n".join(cells), table=True)
        return self.broken(row.reason, row.hint) if isinstance(row, BadRow) else row

    @property
    def _where(self) -> str:
        return f"{self.path}:{self.lines.number}"

    def broken(self, reason: str, hint: str) -> BadRow:
        """The fault of the current row, with what becomes of its further lines."""
        where, number, last, size = self._where, self.lines.number, self.lines.last, len(self.lines.row)
        if size < 2:
            return BadRow(where, reason, hint)
        if self._are_rows(self.lines.row[1:]):
            self.lines.put_back()
            fate = f"its quotation would go on to line {last}; the {size - 1:,} lines after it are read as rows"
            return BadRow(where, f"{reason}: {fate}", hint)
        return BadRow(where, f"{reason}: lines {number} to {last} ({size:,} lines) are lost", hint, size)

    def _are_rows(self, lines: list[str]) -> bool:
        """Whether (nearly) all lines have the header's columns: at least three, and one in twenty may not."""
        fitting = sum(map(self._is_row, lines))
        return fitting >= 3 and len(lines) - fitting <= 1 + len(lines) // 20

    def _is_row(self, line: str) -> bool:
        try:
            cells = next(csv.reader([line], delimiter=self.delimiter, strict=True))
        except csv.Error:
            return False
        return len(cells) == len(self.header) > 1

    def tell(self, report: Report) -> None:
        """Report rows that are valid and yet doubtful."""
        if self._doubtful:
            count = len(self._doubtful)
            rows = "1 row has lines that look" if count == 1 else f"{count:,} rows have lines that look"
            text = f"{self.path}: {rows} like rows of their own ({self._doubtful[0]}): is a quotation mark missing?"
            report(Note(text))
