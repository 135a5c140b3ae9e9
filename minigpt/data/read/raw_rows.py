"""A row as it stands in a file: decoded or not, before anyone asks what it means."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minigpt.data.read.files import DAMAGED, encoding_hint

MAX_ROW = 1 << 24  # characters of one row: what bounds the memory when a quote or a line end is missing


@dataclass(frozen=True)
class Row:
    """One decoded JSON value, or one row of a table as a dict of its columns. `where` is `file:line`."""

    where: str
    value: object
    of_table: bool = False


@dataclass(frozen=True)
class BadRow:
    """A row that could not be decoded: where (`file:line`), why, what to do, and how many lines are lost with it."""

    where: str
    reason: str
    hint: str = ""
    lines: int = 1


def texts_in(value: object) -> Iterator[str]:
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_in(item)


def checked(path: Path, where: str, value: object, text: str, table: bool = False) -> Row | BadRow:
    """The row, unless `text` (what `value` was decoded from) is not clean Unicode."""
    if bad := bad_bytes(path, where, text):
        return bad
    if ("\\ud" in text or "\\uD" in text) and not _encodable(json.dumps(value, ensure_ascii=False, default=str)):
        reason = "a text has half a surrogate pair (\\ud800 to \\udfff), which is no character"
        return BadRow(where, reason, "It was cut inside an emoji or written wrongly: delete that escape.")
    return Row(where, value, table)


def bad_bytes(path: Path, where: str, text: str) -> BadRow | None:
    """The fault of a row's text that is not UTF-8 (read with surrogateescape) or has NUL bytes; None without one."""
    if not _encodable(text):
        return BadRow(where, "not valid UTF-8", encoding_hint(path, text.encode("utf-8", "surrogateescape")))
    if "\0" in text:
        return BadRow(where, "NUL bytes instead of text", DAMAGED)
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def too_long(where: str) -> BadRow:
    """The fault of a row of MAX_ROW characters or more."""
    hint = "Are line breaks missing, or all rows inside one object? A long text goes into a .txt file."
    return BadRow(where, f"the row is longer than {MAX_ROW >> 20} million characters", hint)
