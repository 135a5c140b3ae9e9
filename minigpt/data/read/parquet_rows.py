"""Rows of .parquet files, through pyarrow (the extra `data`), which is imported only for them."""

from collections.abc import Iterator
from pathlib import Path

from minigpt.data.read.raw_rows import BadRow, Row, checked, texts_in
from minigpt.errors import DataError

BATCH = 512  # rows that are in memory together
INSTALL = "Install it: pip install 'minigpt[data]'."


def parquet_rows(path: Path) -> Iterator[Row | BadRow]:
    """One row for each row of the file, numbered from 1. Raises DataError when pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: .parquet files need the package pyarrow.", INSTALL) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                for value in _values(batch):
                    number += 1
                    yield _checked(path, f"{path}:{number}", value)
    except (pyarrow.ArrowException, OSError) as error:
        place = "at all" if not number else "after this row"
        reason = str(error).strip().splitlines()[0].rstrip(".")
        hint = "The file is damaged (an interrupted copy or download), or no Parquet file: get it again."
        yield BadRow(f"{path}:{max(number, 1)}", f"the file cannot be read {place}: {reason}", hint)


def _values(batch) -> list[object]:
    """The rows of a batch; one that has a text that is not UTF-8 stands as its error."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return [_value(batch.slice(i, 1)) for i in range(batch.num_rows)]


def _value(one) -> object:
    try:
        return one.to_pylist()[0]
    except UnicodeDecodeError as error:
        return error


def _checked(path: Path, where: str, value: object) -> Row | BadRow:
    if isinstance(value, UnicodeDecodeError):
        return BadRow(where, "not valid UTF-8", "Write the file again from texts in UTF-8.")
    return checked(path, where, value, "\n".join(texts_in(value)), table=True)
