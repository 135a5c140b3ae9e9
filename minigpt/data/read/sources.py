"""From a file of rows, in whichever format, to a stream of raw rows; every fault is named as `file:line`.

files.py turns paths into files; text.py reads those without rows. What a row means is decided in formats.py.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from minigpt.data.read.csv_rows import csv_rows
from minigpt.data.read.files import ROW_SUFFIXES, UNREADABLE, fault_of, open_binary, suffix_of
from minigpt.data.read.json_rows import json_lines, json_rows
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.errors import DataError


def read_rows(path: str | Path) -> Iterator[Row | BadRow]:
    """Every row of a .jsonl, .json, .csv or .tsv file (also .gz), in bounded memory.

    A row that cannot be decoded becomes a BadRow and reading goes on behind it; where that is impossible
    (a truncated .gz, a list without its end) the BadRow is the last one. Raises DataError for other files.
    """
    path, suffix = Path(path), suffix_of(path)
    if suffix not in ROW_SUFFIXES:
        raise DataError(f"{path}: this is not a file of rows.", f"Rows are in {' '.join(ROW_SUFFIXES)}.")
    last = None
    try:
        with open_binary(path) as binary:
            file = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
            if suffix in (".csv", ".tsv"):
                rows = csv_rows(path, file, "\t" if suffix == ".tsv" else ",;\t")
            elif suffix == ".json":
                rows = json_rows(path, file)
            else:
                rows = json_lines(path, file)
            for last in rows:
                yield last
    except UNREADABLE as error:
        where, place = (last.where, "behind this row") if last else (f"{path}:1", "at all")
        reason, hint = fault_of(error)
        yield BadRow(where, f"the file cannot be read {place}: {reason}", hint)
    else:
        if last is None:
            yield BadRow(f"{path}:1", "the file is empty: it has no rows", "Was it saved?")
