"""Rows of .csv and .tsv files, each a dict of its columns."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from minigpt.data.read.raw_rows import MAX_ROW, BadRow, Row, checked


def csv_rows(path: Path, file: TextIO, delimiters: str) -> Iterator[Row | BadRow]:
    """One row for each line below the header; the delimiter is the one of `delimiters` that the header has most of."""
    csv.field_size_limit(MAX_ROW - 1)  # the module's own limit of 128 KiB is less than a long document
    first = file.readline(MAX_ROW)
    delimiter = max(delimiters, key=first.count)  # spreadsheets of some countries write semicolons
    lines = itertools.chain([first], iter(lambda: file.readline(MAX_ROW), ""))
    reader, header = csv.reader(lines, delimiter=delimiter, strict=True), None
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = 'Put quotes around texts with commas or line breaks, and write a quote inside them as "".'
            yield BadRow(where, f"not valid CSV: {error}", hint)
            continue
        if not cells:
            continue
        row = checked(path, where, dict(zip(header or cells, cells, strict=False)), "\n".join(cells))
        if header is None:
            header = cells
            if isinstance(row, BadRow):
                yield row
                return
        elif len(cells) != len(header):
            reason = f"the row has {len(cells)} columns, but the header has {len(header)}"
            yield BadRow(where, reason, f'Put quotes around texts with "{delimiter}" or a line break.')
        else:
            yield row
