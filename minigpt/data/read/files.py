"""Files of training data: which ones a path names, how they are opened, and what is wrong with them."""

import codecs
import difflib
import glob
import gzip
import os
import shlex
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from minigpt.data.read.folder import files_of, listed
from minigpt.data.read.suffixes import SUPPORTED, is_supported
from minigpt.errors import DataError
from minigpt.events import Note, Report, silent

BLOCK = 1 << 16  # bytes of text, or characters of JSON, that are read at once
UNREADABLE = (OSError, EOFError, zlib.error)  # what a file system and a damaged .gz raise
_CONVERSIONS = {
    ".zip": "Unpack it, and give the directory.",
    ".tar": "Unpack it, and give the directory.",
    ".zst": "Decompress it first: zstd -d FILE",
    ".xz": "Decompress it first: xz -d FILE",
    ".bz2": "Decompress it first: bzip2 -d FILE",
    ".xlsx": "Save it as .csv from the program that made it.",
    ".docx": "Save it as .txt from the program that made it.",
    ".pdf": "Convert it to text first: pdftotext FILE",
    ".arrow": "Convert it with the package datasets: load_from_disk(DIRECTORY).to_parquet(FILE).",
}
DAMAGED = "The file is damaged (an interrupted copy, a full disk) or is not text: copy or download it again."


def find_files(paths: Sequence[str | Path], report: Report = silent) -> list[Path]:
    """The supported files that the files, directories (searched deeply) and globs name, each once.

    Hidden files are skipped; what else a directory has that is not used is reported. Raises DataError for a path that
    does not exist or is not supported.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not str(path):
            raise DataError("The name of a data file is empty.", "Give a file, a directory or a built-in name.")
        for file in _expand(Path(os.path.expanduser(path)), report):
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _expand(path: Path, report: Report) -> list[Path]:
    if os.path.isdir(path):
        return files_of(path, report)
    if os.path.exists(path):
        if not is_supported(path):
            kind = f'files of type "{path.suffix}"' if path.suffix else "files without a suffix"
            hint = f"{_CONVERSIONS.get(path.suffix.lower(), '')} {SUPPORTED}".strip()
            raise DataError(f"{path}: {kind} are not supported.", hint)
        return [path]
    if glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        kept = [match for match in matches if is_supported(match) and match.is_file()]
        if not kept:
            raise DataError(f"{path}: this pattern matches no supported file.", SUPPORTED)
        if others := [match.name for match in matches if match not in kept and match.is_file()]:
            report(Note(f"{path}: omitted, because their type is not supported: {listed(others)}."))
        return kept
    raise DataError(f"{path} does not exist.", _similar_name(path))


def _similar_name(path: Path) -> str:
    if not os.path.isdir(path.parent):
        return f"Its directory {path.parent} does not exist either; relative paths start at {Path.cwd()}."
    try:
        close = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    except OSError:  # a directory that may not be listed
        close = []
    return f"Did you mean {path.parent / close[0]}?" if close else f"Look into {path.parent.resolve()}."


def open_binary(path: Path) -> BinaryIO:
    """The file's bytes, decompressed when it is a .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


def size_of(path: Path, file: BinaryIO) -> int:
    """How many bytes an open file has, decompressed; a .gz is read from where it stands to its end for that."""
    if path.suffix.lower() != ".gz":
        return os.fstat(file.fileno()).st_size
    return sum(map(len, iter(lambda: file.read(BLOCK), b"")))  # the length in a .gz is only kept modulo 4 GiB


def fault_of(error: Exception) -> tuple[str, str]:
    """Reason and hint for one of UNREADABLE: the system's refusal (it has a number), or damaged compressed data."""
    if getattr(error, "errno", None):
        return str(error.strerror), "Check that it exists and that you may read it."
    return str(error), DAMAGED


def encoding_hint(path: Path, sample: bytes) -> str:
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
