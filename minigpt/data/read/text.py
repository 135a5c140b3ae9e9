"""Blocks of text from .txt and other plain text files (also .gz), whole or between two fractions of a file."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from minigpt.data.read.files import BLOCK, DAMAGED, UNREADABLE, encoding_hint, fault_of, open_binary, size_of
from minigpt.data.read.markers import END_OF_DOCUMENT, Markers
from minigpt.errors import DataError

_MARKER = END_OF_DOCUMENT.encode()
_END = re.compile(rf"(^)?{re.escape(END_OF_DOCUMENT)}(?:\r?\n|\r?\Z)?", re.MULTILINE)


@dataclass(frozen=True)
class TextBlock:
    """A piece of a text file; `ends_document` when an end-of-document marker followed it."""

    where: str
    text: str
    ends_document: bool


def read_text(
    path: str | Path, start: float = 0.0, stop: float = 1.0, markers: Markers | None = None
) -> Iterator[TextBlock]:
    """The text between two fractions of a file's (decompressed) bytes, in blocks of at most 64 KiB.

    Blocks end at a line end where they can, and nothing in them is changed, so `stop=0.9` and `start=0.9`
    together give the file back; only a byte order mark and each `<|endoftext|>`, with a line end after it, are omitted.
    A cut inside a character or such a marker moves to its end. The caller ends the document at the end of the file.
    What looks like a control token is counted in `markers`. Raises DataError (`file:line`) for bytes that are not
    UTF-8 text.
    """
    assert 0.0 <= start <= stop <= 1.0, (start, stop)
    path = Path(path)
    try:
        with open_binary(path) as file:
            size = size_of(path, file)
            begin, end = (_cut(file, int(size * fraction), size) for fraction in (start, stop))
            file.seek(0)
            if begin == 0 < end and file.read(3) == codecs.BOM_UTF8:
                begin = 3
            file.seek(0)
            line, begun = 1, False
            for block in _blocks(file, 0, begin):
                line += block.count(b"\n")
            for block in _blocks(file, begin, end):
                for part in _documents(path, line, _decode_block(path, line, block), markers or Markers(path)):
                    if part.text or begun:  # between two markers there is no document
                        yield part
                    begun = not part.ends_document
                line += block.count(b"\n")
    except UNREADABLE as error:
        reason, hint = fault_of(error)
        raise DataError(f"{path}: the file cannot be read: {reason}.", hint) from error


def _cut(file: BinaryIO, at: int, size: int) -> int:
    """`at`, moved forward out of an end-of-document marker or a UTF-8 character that it falls into."""
    if at in (0, size):
        return at
    before = min(at, len(_MARKER) - 1)
    file.seek(at - before)
    around = file.read(before + len(_MARKER) - 1)
    marker = around.find(_MARKER)
    if marker >= 0:
        return at - before + marker + len(_MARKER)
    rest = around[before : before + 3]
    return at + len(rest) - len(rest.lstrip(bytes(range(0x80, 0xC0))))


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """The bytes from `begin`, where the file stands, to `end`; each block ends with a whole character."""
    left = b""
    while chunk := file.read(min(BLOCK - len(left), end - begin)):
        begin += len(chunk)
        data = left + chunk
        length = len(data) if begin == end else _whole(data)
        yield data[:length]
        left = data[length:]
    if left:
        yield left


def _whole(data: bytes) -> int:
    """How much of `data` to take: to the last line end, else to the start of the last character."""
    if line_end := data.rfind(b"\n") + 1:
        return line_end
    if marker := _marker_at_end(data):
        return marker
    starts = (i for i in range(len(data) - 1, max(len(data) - 5, 0), -1) if data[i] & 0xC0 != 0x80)
    return next(starts, len(data))


def _marker_at_end(data: bytes) -> int:
    """Where a marker begins, or what may become one, that only the next block completes; 0 without one."""
    at = data.rfind(b"<", max(0, len(data) - len(_MARKER) - 1))
    return max(at, 0) if _MARKER.startswith(data[at : at + len(_MARKER)]) else 0


def _decode_block(path: Path, line: int, block: bytes) -> str:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        if b"\0" in block and not block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            line += block.count(b"\n", 0, block.index(b"\0"))
            raise DataError(f"{path}:{line}: NUL bytes instead of text.", DAMAGED) from None
        line += block.count(b"\n", 0, error.start)
        message = f"{path}:{line}: not valid UTF-8 (byte 0x{block[error.start]:02X})."
        raise DataError(message, encoding_hint(path, block)) from None
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise DataError(f"{path}:{line}: NUL bytes instead of text.", DAMAGED)
    return text


def _documents(path: Path, line: int, text: str, markers: Markers) -> Iterator[TextBlock]:
    begin = 0
    for end in _END.finditer(text) if END_OF_DOCUMENT in text else ():
        document = text[begin : end.start()]
        own_line = end[1] is not None and (end[0][-1] == "\n" or end.end() == len(text))
        markers.splits += not own_line  # lines of their own are how texts divide documents
        markers.count(document)
        yield TextBlock(f"{path}:{line}", document, True)
        line += text.count("\n", begin, end.end())
        begin = end.end()
    if rest := text[begin:]:
        markers.count(rest)
        yield TextBlock(f"{path}:{line}", rest, False)
