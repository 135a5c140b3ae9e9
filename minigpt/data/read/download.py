"""One file from the network: its size is told first, it is whole or absent, and a broken transfer goes on.

What has arrived of a file stays beside its place as `FILE.part` when the server names the file's version (ETag or
date), and is asked for from there on with a Range request. Without a pinned checksum the first download's is kept in
`FILE.sha256` and compared from then on.
"""

import hashlib
import http.client
import json
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minigpt.errors import MiniGPTError, ResourceError
from minigpt.events import Note, Progress, Report
from minigpt.units import bytes_in_words

CHUNK = 1 << 18  # bytes that are downloaded at once
TIMEOUT = 60  # seconds without an answer
_BY_HAND = "Download it with a browser and give the file's path instead"
BROKEN = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)


@dataclass(frozen=True)
class Download:
    """A file on the network; `headers` go to its own server only, not to where that one sends on."""

    url: str
    file: str
    max_bytes: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def fetched(
    name: str, entry: Download, target: Path, report: Report, opener: Callable = urllib.request.urlopen
) -> Path:
    """`target`, downloaded unless a verified copy is there.

    It arrives under that name only when it is complete, not over its size cap and equal to its checksum. Raises
    MiniGPTError otherwise.
    """
    try:
        _store(_Transfer(name, entry, target, report, opener))
    except urllib.error.HTTPError as error:
        raise _refused(name, entry, error) from error
    except _CutOff as error:
        raise MiniGPTError(f'"{name}" {error}.', "Run the same command again.") from error
    except BROKEN as error:
        message = f'"{name}" cannot be downloaded: {getattr(error, "reason", error)}.'
        hint = f"Is there a network, or a proxy to be named in HTTPS_PROXY? {_BY_HAND}: {entry.url}"
        raise MiniGPTError(message, hint) from error
    except OSError as error:
        message = f'"{name}" cannot be saved as {target}: {error.strerror or error}.'
        raise MiniGPTError(message, "Is the disk full, or the directory read-only?") from error
    return target


def _refused(name: str, entry: Download, error: urllib.error.HTTPError) -> MiniGPTError:
    message = f'"{name}" cannot be downloaded: the server answers {error.code} ({error.reason}).'
    if error.code in (401, 403):
        return MiniGPTError(message, f"It may need a login. {_BY_HAND}: {entry.url}")
    if error.code == 429 or error.code >= 500:
        return MiniGPTError(message, f"The server is busy: run the same command again later. {_BY_HAND}: {entry.url}")
    return MiniGPTError(message, f"The file may have moved. {_BY_HAND}: {entry.url}")


def _store(transfer: "_Transfer") -> None:
    entry, target = transfer.entry, transfer.target
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        _verify(_sha256(target), entry, target, f"Delete {target} and run this again.")
        return
    digest = transfer.run()
    try:
        _verify(digest, entry, target, f"{entry.url} has changed or was damaged on its way: try again later.")
        transfer.part.replace(target)
    finally:
        transfer.forget()


class _Transfer:
    """A file on its way; `version` is the server's name for what `part` is the beginning of."""

    def __init__(self, name: str, entry: Download, target: Path, report: Report, opener: Callable):
        self.name, self.entry, self.target, self.report, self.opener = name, entry, target, report, opener
        self.part = target.with_name(target.name + ".part")
        self.state = target.with_name(target.name + ".part.json")
        self.version = ""

    def run(self) -> str:
        """Fetch the file into `part`, in several tries as long as each brings something; returns its sha256."""
        while True:
            before = self._arrived()
            try:
                self._fetch(before)
                return _sha256(self.part)
            except BROKEN as error:
                changed = isinstance(error, _Changed) or getattr(error, "code", 0) == 416  # no such bytes in the file
                if changed and before:
                    self.forget()
                elif not self._keep() or self._arrived() <= before:
                    raise
            except BaseException:
                self._keep()
                raise

    def _keep(self) -> bool:
        """Keep what has arrived, if it can be gone on with."""
        if not (kept := bool(self.version)):
            self.forget()
        return kept

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _arrived(self) -> int:
        """Bytes of the part that belong to this address and a version of its file; others are removed."""
        try:
            state = json.loads(self.state.read_text("utf-8"))
            if state["url"] == self.entry.url and state["version"]:
                self.version = state["version"]
                return self.part.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.forget()
        return 0

    def _fetch(self, start: int) -> None:
        with self.opener(self._request(start), timeout=TIMEOUT) as response:
            if start and getattr(response, "status", 200) != 206:
                start = 0  # another version of the file, or a server without ranges: from the beginning
            if start and not self._goes_on(response.headers, start):
                raise _Changed("another version of the file")
            total = _length(response.headers, start)
            self._begin(response, start, total)
            done = start
            with open(self.part, "ab" if start else "wb") as file:
                while chunk := response.read(CHUNK):
                    done += len(chunk)
                    self._check_size(done)
                    file.write(chunk)
                    self.report(Progress(f"downloading {self.name}", done, total))
                file.flush()
                os.fsync(file.fileno())
        if total is not None and done != total:  # http.client does not notice a connection that ends too early
            raise _CutOff(f"was cut off after {done:,} of {total:,} bytes")
        self.report(Progress(f"downloading {self.name}", done, done, finished=True))

    def _request(self, start: int) -> str | urllib.request.Request:
        if not start and not self.entry.headers:
            return self.entry.url
        request = urllib.request.Request(self.entry.url)
        for key, value in self.entry.headers.items():
            request.add_unredirected_header(key, value)
        if start:
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", self.version)
        return request

    def _goes_on(self, headers: Mapping[str, str], start: int) -> bool:
        """Whether an answer has the bytes from `start` on of the version that the part is the beginning of."""
        named = (headers.get("ETag"), headers.get("Last-Modified"))
        right = self.version in named or not any(named)
        return right and headers.get("Content-Range", "").startswith(f"bytes {start}-")

    def _begin(self, response: Any, start: int, total: int | None) -> None:
        """Tell the size, refuse what cannot be right, and note down what the part will be the beginning of."""
        self._check_size(total or 0)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            message = f'"{self.name}" cannot be downloaded: {self.entry.url} is a web page, not a file.'
            raise MiniGPTError(message, "Give the address that its download button leads to.")
        size = "of unknown size" if total is None else bytes_in_words(total)
        size += f"; {bytes_in_words(start)} of them are here" if start else ""
        self.report(Note(f"downloading {self.name}: {size}, from {urlsplit(self.entry.url).netloc or 'disk'}"))
        free = shutil.disk_usage(self.target.parent).free
        if (total or 0) - start > free:
            needs = bytes_in_words(total - start)
            message = f'"{self.name}" needs {needs}, but the disk has {bytes_in_words(free)} left.'
            raise ResourceError(message, "Make room, or take a smaller file.")
        if not start:
            self.version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            ranges = getattr(response, "status", None) == 200 and not self.version.startswith("W/")
            self.version *= ranges  # a weak tag names no bytes
            self.state.write_text(json.dumps({"url": self.entry.url, "version": self.version}), "utf-8")

    def _check_size(self, size: int) -> None:
        if self.entry.max_bytes is not None and size > self.entry.max_bytes:
            self.version = ""
            message = f'"{self.name}" is larger than the {self.entry.max_bytes:,} bytes it should have at most.'
            raise MiniGPTError(message, f"The file at {self.entry.url} has changed; look at it before you use it.")


class _CutOff(ConnectionError):
    """A transfer that ended before the file did."""


class _Changed(ConnectionError):
    """The file is no longer the one whose beginning is here."""


def _length(headers: Mapping[str, str], start: int) -> int | None:
    """How many bytes the whole file has; the answer has those from `start` on."""
    length = headers.get("Content-Length")
    return start + int(length) if length and length.isdigit() else None


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
