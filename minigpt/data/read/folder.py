"""The data files of a directory, and what else is there: it is listed, so that nothing is omitted in silence."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from minigpt.data.read.suffixes import SUPPORTED, is_supported, is_text
from minigpt.errors import DataError
from minigpt.events import Note, Report

# Files that tell about data, in whichever case, with or without a suffix.
_ABOUT = {
    "license", "licence", "copying", "notice", "citation", "changelog", "contributing", "code_of_conduct",
}  # fmt: skip
_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json",
             "requirements.txt"}  # fmt: skip


def files_of(directory: Path, report: Report) -> list[Path]:
    """The supported files in a directory and the directories in it, sorted. Hidden ones are skipped.

    Runs, models, environments and what only describes a data set are not data. Raises DataError when nothing is left.
    """
    if reason := _no_data(directory):
        raise DataError(f"{directory} is {reason}, not data.", "Give a directory or a file with training data.")
    skipped: list[str] = []
    found = sorted(_walk(directory, skipped))
    supported = [file for file in found if is_supported(file)]
    beside_rows = any(not is_text(file) and file.name.lower() not in _METADATA for file in supported)
    kept = [file for file in supported if not _is_about(file, beside_rows)]
    about = _names(set(supported) - set(kept), directory)
    other = _names(set(found) - set(supported), directory)
    if not kept:
        only = f", only {listed(about + other + skipped)}" if about + other + skipped else ""
        message = f"{directory}: no supported file in this directory{only}."
        raise DataError(message, "To train on such a text, name the file itself." if about else SUPPORTED)
    if about:
        report(Note(f"{directory}: omitted, because they only describe data: {listed(about)}."))
    if other:
        report(Note(f"{directory}: omitted, because their type is not supported: {listed(other)}."))
    if skipped:
        report(Note(f"{directory}: directories that are omitted: {listed(skipped, 8)}."))
    return kept


def _names(files: set[Path], directory: Path) -> list[str]:
    return sorted(str(file.relative_to(directory)) for file in files)


def _walk(directory: Path, skipped: list[str]) -> Iterator[Path]:
    """Every file that is not hidden; directories that are no data are added to `skipped`."""

    def refused(error: OSError) -> None:
        skipped.append(f"{Path(error.filename).relative_to(directory)} ({error.strerror})")

    for place, inner, names in os.walk(directory, onerror=refused):
        for name in sorted(inner):
            if name.startswith("."):
                inner.remove(name)
            elif reason := _no_data(Path(place, name)) or _downloads(place, name):
                skipped.append(f"{Path(place, name).relative_to(directory)} ({reason})")
                inner.remove(name)
        yield from (path for name in names if not name.startswith(".") and (path := Path(place, name)).is_file())


def _no_data(directory: Path) -> str:
    """What a directory is, when its files are not training data; "" otherwise."""
    if _has(directory, "config.toml") and (_has(directory, "env.json") or _has(directory, "tokenizer")):
        return "a run"
    if _has(directory, "tokenizer_meta.json"):
        return "a tokenizer"
    if _has(directory, "config.json") and (_has(directory, "tokenizer.json") or any(directory.glob("*.safetensors"))):
        return "a model"
    if _has(directory, "pyvenv.cfg") or directory.name in ("node_modules", "__pycache__", "site-packages"):
        return "installed programs"
    return ""


def _downloads(place: str, name: str) -> str:
    return "what was downloaded" if (os.path.basename(os.path.abspath(place)), name) == ("runs", "downloads") else ""


def _has(directory: Path, name: str) -> bool:
    return (directory / name).exists()


def _is_about(file: Path, beside_rows: bool) -> bool:
    return describes_data(file.name, beside_rows) or is_text(file) and _stem(file.name) == "readme" and _is_card(file)


def describes_data(name: str, beside_rows: bool) -> bool:
    """Whether a file of this name only describes data: a licence, metadata, or the README of a data set."""
    if name.lower() in _METADATA:
        return True
    return is_text(name) and (_stem(name) in _ABOUT or beside_rows and _stem(name) == "readme")


def _stem(name: str) -> str:
    """The first word: `readme` of README.zh.md and README-de.md."""
    return re.split(r"[.-]", name.lower())[0]


def _is_card(file: Path) -> bool:
    """Whether a file begins like the card of a data set on Hugging Face."""
    try:
        with open(file, "rb") as opened:
            return opened.read(4) in (b"---\n", b"---\r")
    except OSError:
        return False


def listed(names: list[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
