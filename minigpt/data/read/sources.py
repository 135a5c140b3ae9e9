"""From a file of rows, in whichever format, to a stream of raw rows; every fault is named as `file:line`.

files.py turns paths into files; text.py reads those without rows. What a row means is decided in formats.py.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from minigpt.data.read.csv_rows import csv_rows
from minigpt.data.read.files import UNREADABLE, fault_of, open_binary
from minigpt.data.read.json_rows import json_lines, json_rows
from minigpt.data.read.parquet_rows import parquet_rows
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.data.read.suffixes import ROW_SUFFIXES, suffix_of
from minigpt.errors import DataError
from minigpt.events import Report, silent


def read_rows(path: str | Path, report: Report = silent) -> Iterator[Row | BadRow]:
    """Every row of a .jsonl, .json, .csv, .tsv (also .gz) or .parquet file, in bounded memory.

    A row that cannot be decoded becomes a BadRow and reading goes on after it; where that is impossible
    (a truncated .gz, a list without its end) the BadRow is the last one. Raises DataError for other files.
    """
    path, suffix = Path(path), suffix_of(path)
    if suffix not in ROW_SUFFIXES:
        raise DataError(f"{path}: this is not a file of rows.", f"Rows are in {' '.join(ROW_SUFFIXES)}.")
    last = None
    try:
        for last in _rows(path, suffix, report):
            yield last
    except UNREADABLE as error:
        where, place = (last.where, "after this row") if last else (f"{path}:1", "at all")
        reason, hint = fault_of(error)
        yield BadRow(where, f"the file cannot be read {place}: {reason}", hint)
    else:
        if last is None:
            yield BadRow(f"{path}:1", "the file is empty: it has no rows", "Was it saved?")


def _rows(path: Path, suffix: str, report: Report) -> Iterator[Row | BadRow]:
    if suffix == ".parquet":
        yield from parquet_rows(path)
        return
    with open_binary(path) as binary:
        file = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
        if suffix in (".csv", ".tsv"):
            yield from csv_rows(path, file, "\t" if suffix == ".tsv" else ",;\t", report)
        elif suffix == ".json":
            yield from json_rows(path, file)
        else:
            yield from json_lines(path, file)
