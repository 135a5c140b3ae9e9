"""Rows of .jsonl and .json files, in bounded memory; after a bad row reading goes on where that is possible."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from minigpt.data.read.files import BLOCK
from minigpt.data.read.raw_rows import MAX_ROW, BadRow, Row, bad_bytes, checked, too_long


def json_lines(path: Path, file: TextIO) -> Iterator[Row | BadRow]:
    """One row for each line that is not blank."""
    for number, line in _lines(file):
        where = f"{path}:{number}"
        line = line.strip("\ufeff \t\r\n")  # joined files may carry a byte order mark in the middle
        if len(line) >= MAX_ROW:
            yield too_long(where)
        elif line:
            try:
                row = checked(path, where, json.loads(line), line)
            except (ValueError, RecursionError) as error:
                row = _bad_json(path, where, line, error)
                if number == 1 and line in ("[", "{"):
                    hint = f"This looks like an ordinary JSON file: rename it to {path.stem}.json."
                    yield replace(row, reason="this line is not a whole JSON value", hint=hint)
                    return
            yield row


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    """Numbered lines; of one longer than MAX_ROW the first MAX_ROW characters."""
    for number in itertools.count(1):
        line = rest = file.readline(MAX_ROW)
        if not line:
            return
        while len(rest) == MAX_ROW and not rest.endswith(("\r", "\n")):
            rest = file.readline(MAX_ROW)
        yield number, line


def json_rows(path: Path, file: TextIO) -> Iterator[Row | BadRow]:
    """The items of a JSON list, or each object of a file that has one or several.

    Items of a list also carry their number in `where`. A list without its end gives a BadRow as its last.
    """
    source = _JsonText(file)
    if source.peek() == "[":
        yield from _array(path, source)
        return
    while source.peek():  # one object, or several: JSON lines under another name
        row = _value(path, source, f"{path}:{source.line}")
        yield row
        if isinstance(row, BadRow):
            source.leave_object()


# ----------------------------------------------------------------------------------- streaming JSON

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n\ufeff]*")
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[][{},]', re.DOTALL)  # a string, a bracket or a comma
_NEXT_OBJECT = re.compile(r"[\r\n](?=\{)")


class _JsonText:
    """The part of a JSON file that is in memory: `text[at:]` is unread and starts on line `line`."""

    def __init__(self, file: TextIO):
        self.file, self.text, self.at, self.line = file, "", 0, 1

    def more(self) -> bool:
        """Read on, at least doubling the unread part; False at the end of the file or at MAX_ROW."""
        unread = self.text[self.at :]
        new = self.file.read(max(BLOCK, len(unread))) if len(unread) < MAX_ROW else ""
        if new:
            self.text, self.at = unread + new, 0
        return bool(new)

    def move(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end of the file."""
        while True:
            self.move(_SPACE.match(self.text, self.at).end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> tuple[object, str]:
        """The next value and its text. Raises ValueError, or EOFError when the file ends inside the value."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                closed = isinstance(value, str | list | dict) or end < len(self.text) - 16
                if closed or not self.more():  # the number 12 at the end of the text may become 12.5e-3
                    text = self.text[self.at : end]
                    self.move(end)
                    return value, text
            except json.JSONDecodeError as error:
                # Only an open string is reported far from the place where the text in memory ends.
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16
                if not cut_off or len(self.text) - self.at >= MAX_ROW:
                    raise
                if not self.more():
                    raise (EOFError() if self._open_at_end(error) else error) from None

    def _open_at_end(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated") or not self.text[error.pos :].strip()

    def leave_item(self) -> bool:
        """Move to the comma or ] after a broken item by counting brackets; False if there is none."""
        while True:
            depth = 0
            for token in _TOKEN.finditer(self.text, self.at):
                if token[0] == "," and depth == 0:
                    self.move(token.start())
                    return True
                depth += (token[0] in ("[", "{")) - (token[0] in ("]", "}"))
                if depth < 0:
                    self.move(token.start())
                    return token[0] == "]"
            if not self.more():
                return False

    def leave_object(self) -> None:
        """Move to the next line that starts with {, or to the end of the file."""
        while not (found := _NEXT_OBJECT.search(self.text, self.at)):
            self.move(max(self.at, len(self.text) - 1))  # its last character may be the line end before a {
            if not self.more():
                self.move(len(self.text))
                return
        self.move(found.end())


def _array(path: Path, source: _JsonText) -> Iterator[Row | BadRow]:
    source.move(source.at + 1)
    number = itertools.count(1)
    after = source.peek()
    while after not in ("", "]"):
        row = _value(path, source, f"{path}:{source.line}: item {next(number)}")
        if isinstance(row, BadRow):
            at_end = not source.peek()
            if at_end or not source.leave_item():
                lost = "" if at_end else "; the rows after it could not be read"
                yield replace(row, reason=row.reason + lost)
                return
        yield row
        after, here = source.peek(), f"{path}:{source.line}"
        if after == ",":
            source.move(source.at + 1)
            after = source.peek()
            if after == "]":
                yield BadRow(here, "a comma stands before the closing ]", "Delete the comma.")
        elif after not in ("", "]"):
            yield BadRow(here, "a comma is missing after an item", "Put a comma between two items.")
    if after == "":
        hint = "The file was cut off: copy or download it again, or add the ] at its end."
        yield BadRow(f"{path}:{source.line}", "the list is not closed: the file ends without ]", hint)
    else:
        source.move(source.at + 1)
        if source.peek():
            reason = "there is more text after the closing ] of the list"
            yield BadRow(f"{path}:{source.line}", reason, "Keep one list, or write one JSON object a line.")


def _value(path: Path, source: _JsonText, where: str) -> Row | BadRow:
    try:
        return checked(path, where, *source.value())
    except EOFError:
        source.move(len(source.text))
        return BadRow(where, "the file ends inside this row", "It was cut off, or a quote is not closed.")
    except (ValueError, RecursionError) as error:
        unread = source.text[source.at :]
        if len(unread) >= MAX_ROW:
            return too_long(where)
        at = getattr(error, "pos", source.at) - source.at
        return _bad_json(path, where, unread[: at + 1], error, source.line + unread.count("\n", 0, at))


# ----------------------------------------------------------------------------------- faults of rows

_JSON_HINTS = {
    "Expecting property name": 'Keys stand in double quotes, as in {"text": "..."}; no comma after the last.',
    "Expecting value": "Values are texts in double quotes, numbers, lists, objects, true, false or null.",
    "Expecting ','": 'Is a comma missing, or a \\ before a " inside a text?',
    "Expecting ':'": 'Write a colon between the key and its value, as in {"text": "..."}.',
    "Invalid control": "Inside a text write a line break as \\n and a tab as \\t.",
    "Invalid \\": "Inside a text write a backslash as \\\\.",
    "Unterminated": "The closing quote of a text is missing, or the file was cut off here.",
    "Extra data": "Write one JSON value a line.",
}


def _bad_json(path: Path, where: str, text: str, error: Exception, line: int | None = None) -> BadRow:
    if bad := bad_bytes(path, where, text):
        return bad
    if isinstance(error, RecursionError):
        return BadRow(where, "the value is nested too deeply", "A row is one object with a few keys.")
    if not isinstance(error, json.JSONDecodeError):
        return BadRow(where, "not valid JSON: a number has too many digits", "Write it as a text in quotes.")
    place = f"column {error.colno}" if line is None else f"line {line}"
    hint = next((hint for start, hint in _JSON_HINTS.items() if error.msg.startswith(start)), "")
    if text.startswith(("{'", "['")):
        hint = "JSON needs double quotes: \"text\", not 'text'."
    return BadRow(where, f"not valid JSON at {place}: {error.msg}", hint)
