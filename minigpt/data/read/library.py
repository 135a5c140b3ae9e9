"""A real corpus on every machine: the text of the interpreter's own standard library."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from minigpt.errors import DataError

MOST = 20_000_000  # bytes
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib", "lib2to3"}


def python_docs(max_bytes: int = MOST, root: str | Path | None = None) -> list[Path]:
    """The .py, .txt and .rst files of this interpreter's standard library: a real corpus on every machine.

    In sorted order, without tests, and no more than `max_bytes` altogether. Only valid UTF-8 files are taken.
    """
    root = Path(root or sysconfig.get_paths()["stdlib"])
    files, total = [], 0
    for path in _library_texts(root):
        size = path.stat().st_size
        if 0 < size <= max_bytes - total and _is_utf8(path):
            files.append(path)
            total += size
    if not files:
        raise DataError(f"{root}: this Python has no library text.", "Use files of your own.")
    return files


def _library_texts(root: Path) -> Iterator[Path]:
    for directory, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in _LEFT_OUT and not name.startswith("."))
        yield from (Path(directory, name) for name in sorted(names) if name.endswith((".py", ".txt", ".rst")))


def _is_utf8(path: Path) -> bool:
    try:
        return "\0" not in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
