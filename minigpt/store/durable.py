"""Files and directories that appear under their name whole or not at all, whatever ends the process.

Everything is written beside its place under a name that begins with a dot and holds the process id, flushed to
the disk and renamed. `tidy` removes what a killed process left.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# .NAME.PID.tmp is half-written, .NAME.PID.old waits while something new takes its place, .NAME.PID.gone is deleted.
LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+\.(?P<kind>tmp|old|gone)")
POSIX = hasattr(os, "O_DIRECTORY")  # a directory can be opened, and what is only read can be flushed


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A temporary directory to write into; when the block ends without an error it takes the place of `directory`.

    When the block raises, what was there before stays and nothing else is left.
    """
    temporary = _beside(directory, "tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            flush(path)
        _replace(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def whole_file(path: Path, flushed: bool = True) -> Iterator[Path]:
    """The name of a temporary file to write; when the block ends without an error it takes the place of `path`.

    What need not outlive the machine's power is not `flushed` to the disk.
    """
    temporary = _beside(path, "tmp")
    try:
        yield temporary
        if flushed:
            flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if flushed:
        flush(path.parent)


def write_whole(path: Path, text: str, flushed: bool = True) -> None:
    """Write a text file that is there whole or, when this is interrupted, as it was before."""
    with whole_file(path, flushed) as temporary:
        temporary.write_text(text, "utf-8")


def discard(directory: Path) -> None:
    """Delete a directory so that it is never there in part: it leaves its name first."""
    gone = _beside(directory, "gone")
    os.rename(directory, gone)
    shutil.rmtree(gone, ignore_errors=True)


def tidy(root: Path) -> None:
    """Remove what killed processes left unfinished under `root`, and put back what one was about to replace.

    Only for the one process that may write there (see `minigpt.store.lock`): it would take another's work away.
    """
    for path in sorted(root.rglob(".*")):
        found = LEFTOVER.fullmatch(path.name)
        if found is None or not path.exists():
            continue
        if found["kind"] == "old" and not path.with_name(found["name"]).exists():
            os.rename(path, path.with_name(found["name"]))
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file or directory is on the disk. Windows flushes what may be written to, and no directories."""
    if not POSIX and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if POSIX else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(temporary: Path, directory: Path) -> None:
    old = _beside(directory, "old")
    if directory.exists():
        os.rename(directory, old)
    try:
        os.rename(temporary, directory)
    except BaseException:
        if old.exists():
            os.rename(old, directory)
        raise
    flush(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")
