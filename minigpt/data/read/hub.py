"""Data sets on Hugging Face by name: `hf:OWNER/NAME`, `hf:OWNER/NAME/PATH`, each also with `@REVISION` after NAME.

The list of a data set's files is asked for once and kept beside them, so that a run goes on without a network and with
the same files. Public data sets need nothing but Python; others a token, in HF_TOKEN or as `hf auth login` keeps it.
"""

import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from minigpt.data.read.download import BROKEN, TIMEOUT, Download, bytes_in_words, fetched
from minigpt.data.read.folder import describes_data, listed
from minigpt.data.read.suffixes import SUPPORTED, is_supported, is_text
from minigpt.errors import DataError, MiniGPTError
from minigpt.events import Note, Report

_NAME = re.compile(r"hf:(?://)?(?:datasets/)?([\w.-]+/[\w.-]+|[\w.-]+)(?:@([\w.-]+))?(?:/(.*))?")
_OTHER_SPLITS = re.compile(r"(^|[/_.-])(test|valid|validation|dev|eval)([/_.-]|$)", re.IGNORECASE)
_TRAIN = re.compile(r"(^|[/_.-])train([/_.-]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class _File:
    """A file of a data set; `sha256` is None for small ones, which the server does not keep by checksum."""

    path: str
    size: int
    sha256: str | None


def is_hub(source: str | Path) -> bool:
    """Whether a source is the name of a data set on Hugging Face."""
    return isinstance(source, str) and source.startswith("hf:")


def parsed(source: str) -> tuple[str, str, str]:
    """(repository, revision, path inside it) of a name. Raises DataError when it is none."""
    found = _NAME.fullmatch(source)
    if not found or ".." in source:
        raise DataError(f"{source} names no data set.", "Write hf:OWNER/NAME or hf:OWNER/NAME/PATH.")
    return found[1], found[2] or "main", (found[3] or "").strip("/")


def dataset(source: str, cache: Path, report: Report) -> list[Path]:
    """The data files of a data set or of a path inside it, downloaded into `cache` unless they are there.

    Of a whole data set only the files of the training split are used. Raises DataError when it has no
    supported file, and MiniGPTError when it cannot be had.
    """
    repository, revision, path = parsed(source)
    directory = cache / f"hf-{repository.replace('/', '--')}@{revision}"
    files = _chosen(source, _listing(source, repository, revision, directory), path, report)
    missing = [file for file in files if not (directory / file.path).exists()]
    if missing:
        size = bytes_in_words(sum(file.size for file in missing))
        report(Note(f"{source}: {len(missing):,} files to download, {size}: {listed([f.path for f in missing])}."))
    return [_download(file, repository, revision, directory, report) for file in files]


def _chosen(source: str, files: list[_File], path: str, report: Report) -> list[_File]:
    inside = [file for file in files if not path or file.path == path or file.path.startswith(f"{path}/")]
    if not inside:
        raise DataError(f"{source}: there is no {path} in this data set.", f"It has {listed([f.path for f in files])}.")
    supported = [file for file in inside if is_supported(file.path)]
    beside_rows = any(not is_text(file.path) for file in supported)
    kept = [f for f in supported if f.path == path or not describes_data(PurePosixPath(f.path).name, beside_rows)]
    if not kept:
        raise DataError(f"{source}: no supported file, only {listed([f.path for f in inside])}.", SUPPORTED)
    train = [file for file in kept if not _OTHER_SPLITS.search(file.path)]
    if not path and any(_TRAIN.search(file.path) for file in train) and len(train) < len(kept):
        others = listed([file.path for file in kept if file not in train])
        report(Note(f"{source}: only what is for training is used; omitted: {others} (name one as {source}/PATH)."))
        kept = train
    unsupported = [f.path for f in inside if f not in supported and not PurePosixPath(f.path).name.startswith(".")]
    if unsupported:
        report(Note(f"{source}: omitted, because their type is not supported: {listed(unsupported)}."))
    return kept


def _listing(source: str, repository: str, revision: str, directory: Path) -> list[_File]:
    """The files of a data set, as they were when it was first asked for."""
    kept = directory / ".listing.json"
    if not kept.exists():
        files = _asked(source, repository, revision)
        directory.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(".part")
        temporary.write_text(json.dumps([asdict(file) for file in files]), "utf-8")
        temporary.replace(kept)
    return [_File(**values) for values in json.loads(kept.read_text("utf-8"))]


def _asked(source: str, repository: str, revision: str) -> list[_File]:
    """What the hub's API says (https://huggingface.co/docs/hub/api, GET /api/datasets/{id}/revision/{revision})."""
    address = f"{_endpoint()}/api/datasets/{repository}/revision/{quote(revision, safe='')}?blobs=true"
    request = urllib.request.Request(address)
    for key, value in _headers().items():
        request.add_unredirected_header(key, value)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            answer = json.load(response)
        return [
            _File(entry["rfilename"], entry.get("size") or 0, (entry.get("lfs") or {}).get("sha256"))
            for entry in answer["siblings"]
            if ".." not in entry["rfilename"].split("/") and not entry["rfilename"].startswith("/")
        ]
    except urllib.error.HTTPError as error:
        message = f"{source}: Hugging Face answers {error.code} ({error.reason})."
        hint = "Is the name right? A private or gated data set needs a token: set HF_TOKEN, or pip install "
        raise MiniGPTError(message, f"{hint}'minigpt[hub]' and log in with: hf auth login") from error
    except BROKEN as error:
        hint = "Is there a network, or a proxy to be named in HTTPS_PROXY? HF_ENDPOINT names a mirror."
        message = f"{source}: Hugging Face cannot be reached: {getattr(error, 'reason', error)}."
        raise MiniGPTError(message, f"{hint} Or download the files elsewhere and give their directory.") from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"{source}: {_endpoint()} gives no list of files ({error})."
        raise MiniGPTError(message, "Is HF_ENDPOINT right?") from error


def _download(file: _File, repository: str, revision: str, directory: Path, report: Report) -> Path:
    address = f"{_endpoint()}/datasets/{repository}/resolve/{quote(revision, safe='')}/{quote(file.path)}"
    cap = file.size or None
    entry = Download(address, file.path, cap, file.sha256, _headers())
    return fetched(file.path, entry, directory / file.path, report)


def _endpoint() -> str:
    """Hugging Face, or the mirror that its own tools use, too."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _headers() -> dict[str, str]:
    """The user's own token, where there is one."""
    token = os.environ.get("HF_TOKEN")
    if not token:
        try:
            from huggingface_hub import get_token
        except ImportError:
            return {}
        token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}
