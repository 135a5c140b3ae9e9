"""Data that needs no file of the user's: the interpreter's own library text, and downloads by name."""

import hashlib
import http.client
import os
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from minigpt.data.read.files import find_files
from minigpt.errors import DataError, MiniGPTError
from minigpt.events import Progress, Report, silent

PYTHON_DOCS = "python-docs"
MB = 1_000_000
CHUNK = 1 << 18  # bytes that are downloaded at once
TIMEOUT = 60  # seconds without an answer


@dataclass(frozen=True)
class Download:
    """A file that has a name here. Without a pinned `sha256` the first download's is kept beside the file."""

    url: str
    file: str
    max_bytes: int
    sha256: str | None = None


_TINYSTORIES = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main"
_MINIMIND = "https://huggingface.co/datasets/jingyaogong/minimind_dataset/resolve/main"

# The caps are about a fifth above the published sizes: a changed file is noticed before it fills the disk.
DOWNLOADS = {
    "tinyshakespeare": Download(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "tinyshakespeare.txt",
        2 * MB,
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "tinystories": Download(
        f"{_TINYSTORIES}/TinyStoriesV2-GPT4-train.txt", "tinystories-train.txt", 2_700 * MB
    ),
    "tinystories-valid": Download(
        f"{_TINYSTORIES}/TinyStoriesV2-GPT4-valid.txt", "tinystories-valid.txt", 27 * MB
    ),
    "minimind-pretrain": Download(f"{_MINIMIND}/pretrain_hq.jsonl", "minimind-pretrain.jsonl", 2_000 * MB),
    "minimind-sft": Download(f"{_MINIMIND}/sft_mini_512.jsonl", "minimind-sft.jsonl", 1_500 * MB),
    "minimind-dpo": Download(f"{_MINIMIND}/dpo.jsonl", "minimind-dpo.jsonl", 1_100 * MB),
}


def resolve(
    names_or_paths: Sequence[str | Path], cache_dir: str | Path, report: Report | None = None
) -> list[Path]:
    """The files behind names (`tinyshakespeare`, `python-docs`, ...) and paths (see `find_files`), in order.

    A known name is not looked up as a path: write `./tinystories` for a file or directory of that name.
    """
    files: list[Path] = []
    for item in names_or_paths:
        if item == PYTHON_DOCS:
            files += python_docs()
        elif item in DOWNLOADS:
            files.append(download(item, cache_dir, report))
        else:
            files += _find(item)
    return list(dict.fromkeys(files))


def check_source(name_or_path: str) -> None:
    """Raises DataError when a path names no supported file. Nothing is read or downloaded."""
    if name_or_path != PYTHON_DOCS and name_or_path not in DOWNLOADS:
        _find(name_or_path)


def _find(path: str | Path) -> list[Path]:
    try:
        return find_files([path])
    except DataError as error:
        close = get_close_matches(str(path), [PYTHON_DOCS, *DOWNLOADS], n=1, cutoff=0.75)
        hint = f'Did you mean the built-in name "{close[0]}"?' if close else error.hint
        raise DataError(error.message, hint) from None


# ----------------------------------------------------------------------------- the standard library

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib", "lib2to3"}


def python_docs(max_bytes: int = 20 * MB, root: str | Path | None = None) -> list[Path]:
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


# ---------------------------------------------------------------------------------------- downloads

_BY_HAND = "Download it with a browser and give the file's path instead"


def download(
    name: str,
    directory: str | Path,
    report: Report | None = None,
    opener: Callable = urllib.request.urlopen,
) -> Path:
    """The named file in `directory`, downloaded unless a verified copy is there.

    It arrives under its final name only when it is complete, not over its size cap and equal to its checksum.
    Raises MiniGPTError otherwise, and then leaves no new file behind.
    """
    entry, target = DOWNLOADS[name], Path(directory) / DOWNLOADS[name].file
    try:
        _store(name, entry, target, report or silent, opener)
    except urllib.error.HTTPError as error:
        message = f'"{name}" cannot be downloaded: the server answers {error.code} ({error.reason}).'
        raise MiniGPTError(message, f"The file may have moved. {_BY_HAND}: {entry.url}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        message = f'"{name}" cannot be downloaded: {getattr(error, "reason", error)}.'
        raise MiniGPTError(message, f"Is there a network? {_BY_HAND}: {entry.url}") from error
    except OSError as error:
        message = f'"{name}" cannot be saved as {target}: {error.strerror or error}.'
        raise MiniGPTError(message, "Is the disk full, or the directory read-only?") from error
    return target


def _store(name: str, entry: Download, target: Path, report: Report, opener: Callable) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        _verify(_sha256(target), entry, target, f"Delete {target} and run this again.")
        return
    part = target.with_name(target.name + ".part")
    try:
        digest = _fetch(name, entry, part, report, opener)
        _verify(digest, entry, target, f"{entry.url} has changed or was damaged on its way: try again later.")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _fetch(name: str, entry: Download, part: Path, report: Report, opener: Callable) -> str:
    """Stream the file into `part`; returns its sha256. MiniGPTError when it is too large or cut off."""
    digest, done = hashlib.sha256(), 0
    with opener(entry.url, timeout=TIMEOUT) as response, open(part, "wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        _check_size(name, entry, total or 0)
        while chunk := response.read(CHUNK):
            done += len(chunk)
            _check_size(name, entry, done)
            digest.update(chunk)
            file.write(chunk)
            report(Progress(f"downloading {name}", done, total))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done != total:  # http.client does not notice a connection that ends too early
        message = f'"{name}" was cut off after {done:,} of {total:,} bytes.'
        raise MiniGPTError(message, "Run the same command again.")
    report(Progress(f"downloading {name}", done, done, finished=True))
    return digest.hexdigest()


def _check_size(name: str, entry: Download, size: int) -> None:
    if size > entry.max_bytes:
        message = f'"{name}" is larger than the {entry.max_bytes:,} bytes it should have at most.'
        raise MiniGPTError(message, f"The file behind {entry.url} has changed; look at it before you use it.")


def _verify(digest: str, entry: Download, target: Path, remedy: str) -> None:
    """Compare with the pinned checksum, else with the one kept at first use; keep it when there is none."""
    record = target.with_name(target.name + ".sha256")
    expected = entry.sha256
    if expected is None and record.exists():
        expected = record.read_text(encoding="utf-8", errors="replace").split(" ")[0].strip()
    if expected is None:
        record.write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    elif digest != expected:
        source = "the known" if entry.sha256 else f"{record.name}'s"
        message = f"{target.name}: its sha256 is {digest[:12]}..., not {source} {expected[:12]}..."
        raise MiniGPTError(message, remedy)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
