"""From paths to raw rows and blocks of text: every file is streamed, and every fault is named as `file:line`.

`find_files` turns files, directories and globs into files; `read_rows` reads .jsonl, .json, .csv and .tsv;
`read_text` reads .txt and other plain text. What a row means is decided in formats.py.
"""

import codecs
import csv
import difflib
import glob
import gzip
import io
import itertools
import json
import os
import re
import shlex
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TextIO

from minigpt.errors import DataError

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")
ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
SUPPORTED = f"Supported are {' '.join(TEXT_SUFFIXES + ROW_SUFFIXES)}, each also with .gz."
END_OF_DOCUMENT = b"<|endoftext|>"  # a line of its own between two documents, as in TinyStories
BLOCK = 1 << 16  # bytes of text, or characters of JSON, that are read at once
MAX_ROW = 1 << 24  # characters of one row: what bounds the memory when a quote or a line end is missing

_UNREADABLE = (OSError, EOFError, zlib.error)  # what a file system and a damaged .gz raise
_DAMAGED = "The file is damaged (an interrupted copy, a full disk) or is not text: copy or download it again."


@dataclass(frozen=True)
class Row:
    """One decoded JSON value, or one CSV row as a dict of its columns. `where` is `file:line`."""

    where: str
    value: object


@dataclass(frozen=True)
class BadRow:
    """A row that could not be decoded: where (`file:line`), why, and what to do."""

    where: str
    reason: str
    hint: str = ""


@dataclass(frozen=True)
class TextBlock:
    """A piece of a text file; `ends_document` when an end-of-document line followed it."""

    where: str
    text: str
    ends_document: bool


# ------------------------------------------------------------------------------------ finding files


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """The supported files that the files, directories (searched deeply) and globs name, each once.

    Hidden files are skipped. Raises DataError for a path that does not exist or is not supported.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for file in _expand(Path(os.path.expanduser(path))):
            found.setdefault(file.resolve(), file)
    return list(found.values())


def is_text(path: str | Path) -> bool:
    """True for a file that `read_text` reads, False for one that `read_rows` reads."""
    return _suffix(path) in TEXT_SUFFIXES


def _expand(path: Path) -> list[Path]:
    if os.path.isdir(path):
        inside = [file for file in path.rglob("*") if not _hidden(file.relative_to(path))]
        return _supported(inside, f"{path}: no supported file in this directory.")
    if os.path.exists(path):
        if _suffix(path) not in TEXT_SUFFIXES + ROW_SUFFIXES:
            kind = f'files of type "{path.suffix}"' if path.suffix else "files without a suffix"
            raise DataError(f"{path}: {kind} are not supported.", SUPPORTED)
        return [path]
    if glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        return _supported(matches, f"{path}: this pattern matches no supported file.")
    raise DataError(f"{path} does not exist.", _similar_name(path))


def _supported(files: list[Path], complaint: str) -> list[Path]:
    kept = sorted(f for f in files if _suffix(f) in TEXT_SUFFIXES + ROW_SUFFIXES and f.is_file())
    if not kept:
        raise DataError(complaint, SUPPORTED)
    return kept


def _suffix(path: str | Path) -> str:
    name = Path(path).name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _similar_name(path: Path) -> str:
    if not os.path.isdir(path.parent):
        return f"Its directory {path.parent} does not exist either; relative paths start at {Path.cwd()}."
    try:
        close = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    except OSError:  # a directory that may not be listed
        close = []
    return f"Did you mean {path.parent / close[0]}?" if close else f"Look into {path.parent.resolve()}."


# ------------------------------------------------------------------------------------- reading rows


def read_rows(path: str | Path) -> Iterator[Row | BadRow]:
    """Every row of a .jsonl, .json, .csv or .tsv file (also .gz), in bounded memory.

    A row that cannot be decoded becomes a BadRow and reading goes on behind it; where that is impossible
    (a truncated .gz, a list without its end) the BadRow is the last one. Raises DataError for other files.
    """
    path, suffix = Path(path), _suffix(path)
    if suffix not in ROW_SUFFIXES:
        raise DataError(f"{path}: this is not a file of rows.", f"Rows are in {' '.join(ROW_SUFFIXES)}.")
    last = None
    try:
        with _open(path) as binary:
            file = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
            if suffix in (".csv", ".tsv"):
                rows = _csv_rows(path, file, "\t" if suffix == ".tsv" else ",;\t")
            elif suffix == ".json":
                rows = _json_rows(path, _JsonText(file))
            else:
                rows = _json_lines(path, file)
            for last in rows:
                yield last
    except _UNREADABLE as error:
        where, place = (last.where, "behind this row") if last else (f"{path}:1", "at all")
        reason, hint = _unreadable(error)
        yield BadRow(where, f"the file cannot be read {place}: {reason}", hint)
    else:
        if last is None:
            yield BadRow(f"{path}:1", "the file is empty: it has no rows", "Was it saved?")


def _json_lines(path: Path, file: TextIO) -> Iterator[Row | BadRow]:
    for number, line in _lines(file):
        where = f"{path}:{number}"
        line = line.strip("\ufeff \t\r\n")  # joined files may carry a byte order mark in the middle
        if len(line) >= MAX_ROW:
            yield _too_long(where)
        elif line:
            try:
                row = _row(path, where, json.loads(line), line)
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


def _csv_rows(path: Path, file: TextIO, delimiters: str) -> Iterator[Row | BadRow]:
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
        row = _row(path, where, dict(zip(header or cells, cells, strict=False)), "\n".join(cells))
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
        """Move to the comma or ] behind a broken item by counting brackets; False if there is none."""
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


def _json_rows(path: Path, source: _JsonText) -> Iterator[Row | BadRow]:
    if source.peek() == "[":
        yield from _json_array(path, source)
        return
    while source.peek():  # one object, or several: JSON lines under another name
        row = _json_value(path, source, f"{path}:{source.line}")
        yield row
        if isinstance(row, BadRow):
            source.leave_object()


def _json_array(path: Path, source: _JsonText) -> Iterator[Row | BadRow]:
    source.move(source.at + 1)
    number = itertools.count(1)
    after = source.peek()
    while after not in ("", "]"):
        row = _json_value(path, source, f"{path}:{source.line}: item {next(number)}")
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


def _json_value(path: Path, source: _JsonText, where: str) -> Row | BadRow:
    try:
        return _row(path, where, *source.value())
    except EOFError:
        source.move(len(source.text))
        return BadRow(where, "the file ends inside this row", "It was cut off, or a quote is not closed.")
    except (ValueError, RecursionError) as error:
        unread = source.text[source.at :]
        if len(unread) >= MAX_ROW:
            return _too_long(where)
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


def _row(path: Path, where: str, value: object, text: str) -> Row | BadRow:
    """The row, unless `text` (what `value` was decoded from) is not clean Unicode."""
    if bad := _bad_bytes(path, where, text):
        return bad
    if ("\\ud" in text or "\\uD" in text) and not _encodable(json.dumps(value, ensure_ascii=False)):
        reason = "a text has half a surrogate pair (\\ud800 to \\udfff), which is no character"
        return BadRow(where, reason, "It was cut inside an emoji or written wrongly: delete that escape.")
    return Row(where, value)


def _bad_json(path: Path, where: str, text: str, error: Exception, line: int | None = None) -> BadRow:
    if bad := _bad_bytes(path, where, text):
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


def _bad_bytes(path: Path, where: str, text: str) -> BadRow | None:
    if not _encodable(text):
        return BadRow(where, "not valid UTF-8", _encoding_hint(path, text.encode("utf-8", "surrogateescape")))
    if "\0" in text:
        return BadRow(where, "NUL bytes instead of text", _DAMAGED)
    return None


def _too_long(where: str) -> BadRow:
    hint = "Are line breaks missing, or all rows inside one object? A long text goes into a .txt file."
    return BadRow(where, f"the row is longer than {MAX_ROW >> 20} million characters", hint)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _encoding_hint(path: Path, sample: bytes) -> str:
    """Which encoding the bytes look like, and the command that converts the file."""
    valid = sample.decode("utf-8", "ignore")
    wide = codecs.getincrementaldecoder("gb18030")("replace").decode(sample)
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "UTF-16"
    elif sum(not c.isascii() for c in valid) > sample.decode("utf-8", "replace").count("\ufffd"):
        name = "UTF-8"
    elif all(c.isascii() or "\u3000" <= c <= "\u9fff" or "\uff00" <= c <= "\uffef" for c in wide):
        name = "GB18030"
    else:
        name = "WINDOWS-1252"  # Western Europe; contains Latin-1's letters
    source = f"gzip -dc {shlex.quote(str(path))} | iconv" if path.suffix.lower() == ".gz" else "iconv"
    target = shlex.quote(f"utf8-{path.name.removesuffix('.gz')}")
    file = "" if "gzip" in source else f" {shlex.quote(str(path))}"
    if name == "UTF-8":
        return f"Single bytes are damaged; drop them with: {source} -c -f UTF-8 -t UTF-8{file} > {target}"
    return f"It looks like {name}; convert it with: {source} -f {name} -t UTF-8{file} > {target}"


# ------------------------------------------------------------------------------------- reading text

_END_LINE = re.compile(r"^<\|endoftext\|>\r?(?:\n|\Z)", re.MULTILINE)


def read_text(path: str | Path, start: float = 0.0, stop: float = 1.0) -> Iterator[TextBlock]:
    """The text between two fractions of a file's (decompressed) bytes, in blocks of at most 64 KiB.

    Blocks end at a line end where they can, and nothing in them is changed, so `stop=0.9` and `start=0.9`
    together give the file back; only a byte order mark and `<|endoftext|>` lines are left out. A cut inside
    a character or such a line moves behind it. The caller ends the document at the end of the file.
    Raises DataError (`file:line`) for bytes that are not UTF-8 text.
    """
    assert 0.0 <= start <= stop <= 1.0, (start, stop)
    path = Path(path)
    try:
        with _open(path) as file:
            size = _size(path, file)
            begin, end = (_cut(file, int(size * fraction), size) for fraction in (start, stop))
            file.seek(0)
            if begin == 0 < end and file.read(3) == codecs.BOM_UTF8:
                begin = 3
            file.seek(0)
            line = 1
            for block in _blocks(file, 0, begin):
                line += block.count(b"\n")
            for block in _blocks(file, begin, end):
                yield from _documents(path, line, _decode_block(path, line, block))
                line += block.count(b"\n")
    except _UNREADABLE as error:
        reason, hint = _unreadable(error)
        raise DataError(f"{path}: the file cannot be read: {reason}.", hint) from error


def _unreadable(error: Exception) -> tuple[str, str]:
    """Reason and hint: the system's refusal (it has a number), or damaged compressed data."""
    if getattr(error, "errno", None):
        return str(error.strerror), "Check that it exists and that you may read it."
    return str(error), _DAMAGED


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


def _size(path: Path, file: BinaryIO) -> int:
    if path.suffix.lower() != ".gz":
        return os.fstat(file.fileno()).st_size
    return sum(map(len, iter(lambda: file.read(BLOCK), b"")))  # the length in a .gz is only kept modulo 4 GiB


def _cut(file: BinaryIO, at: int, size: int) -> int:
    """`at`, moved forward out of an end-of-document marker or a UTF-8 character that it falls into."""
    if at in (0, size):
        return at
    before = min(at, len(END_OF_DOCUMENT) - 1)
    file.seek(at - before)
    around = file.read(before + len(END_OF_DOCUMENT) - 1)
    marker = around.find(END_OF_DOCUMENT)
    if marker >= 0:
        return at - before + marker + len(END_OF_DOCUMENT)
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
    starts = (i for i in range(len(data) - 1, max(len(data) - 5, 0), -1) if data[i] & 0xC0 != 0x80)
    return next(starts, len(data))


def _decode_block(path: Path, line: int, block: bytes) -> str:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        line += block.count(b"\n", 0, error.start)
        message = f"{path}:{line}: not valid UTF-8 (byte 0x{block[error.start]:02X})."
        raise DataError(message, _encoding_hint(path, block)) from None
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise DataError(f"{path}:{line}: NUL bytes instead of text.", _DAMAGED)
    return text


def _documents(path: Path, line: int, text: str) -> Iterator[TextBlock]:
    *ended, rest = _END_LINE.split(text)
    for document in ended:
        yield TextBlock(f"{path}:{line}", document, True)
        line += document.count("\n") + 1
    if rest:
        yield TextBlock(f"{path}:{line}", rest, False)
