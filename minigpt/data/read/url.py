"""Files of data at an address on the network: `https://HOST/stories.jsonl`."""

import hashlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from minigpt.data.read.download import Download, fetched
from minigpt.data.read.suffixes import SUPPORTED, is_supported
from minigpt.errors import DataError
from minigpt.events import Report

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # a drive letter has only one letter before its colon


def is_url(source: str | Path) -> bool:
    """Whether a source is an address and not a path."""
    return isinstance(source, str) and _SCHEME.match(source) is not None


def check(address: str) -> None:
    """Raises DataError for an address that cannot be one of a data file. Nothing is downloaded."""
    _name_of(address)


def file(address: str, cache: Path, report: Report) -> Path:
    """The file at an address, downloaded into `cache` unless it is there. Raises DataError, or see `fetched`."""
    name = _name_of(address)
    key = hashlib.sha256(address.encode()).hexdigest()[:8]  # files of one name from several places
    return fetched(name, Download(direct(address), name), cache / f"{key}-{name}", report)


def _name_of(address: str) -> str:
    scheme = _SCHEME.match(address)[1].lower()
    if scheme not in ("http", "https"):
        hint = "Download the file with the program for that service, and give its path."
        raise DataError(f"{address}: addresses that begin with {scheme}:// are not supported.", hint)
    parts = urlsplit(address)
    name = re.sub(r"[^\w.-]", "_", unquote(PurePosixPath(parts.path).name))
    if not parts.hostname or not name:
        raise DataError(f"{address} names no file.", "Give the whole address, as https://HOST/stories.jsonl.")
    if not is_supported(name):
        page = "huggingface.co" in parts.hostname
        hint = "Give a data set on Hugging Face as hf:OWNER/NAME." if page else SUPPORTED
        raise DataError(f'{address}: files of type "{PurePosixPath(name).suffix}" are not supported.', hint)
    return name


def direct(address: str) -> str:
    """The address of the file itself, where one of a page that shows it is given (GitHub, Hugging Face)."""
    parts = urlsplit(address)
    if parts.hostname == "github.com" and (found := re.fullmatch(r"/([^/]+/[^/]+)/(?:blob|raw)/(.+)", parts.path)):
        return f"https://raw.githubusercontent.com/{found[1]}/{found[2]}"
    if parts.hostname == "huggingface.co":
        return address.replace("/blob/", "/resolve/", 1)
    return address
