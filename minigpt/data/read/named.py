"""Data that needs no file of the user's: built-in names, files on the network, data sets on Hugging Face."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from minigpt.data.read import hub, url
from minigpt.data.read.download import Download, fetched
from minigpt.data.read.files import find_files
from minigpt.data.read.library import python_docs
from minigpt.errors import DataError
from minigpt.events import Report, silent

PYTHON_DOCS = "python-docs"
MB = 1_000_000

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
    """The files of names, addresses and paths (see `find_files`), in order; what is not here is downloaded.

    Names are `tinyshakespeare`, `python-docs`, ..., addresses `https://HOST/FILE` and `hf:OWNER/NAME[/PATH]`. A known
    name is not looked up as a path: write `./tinystories` for a file or directory of that name.
    """
    files: list[Path] = []
    for item in names_or_paths:
        files += _files(item, Path(cache_dir), report or silent)
    return list(dict.fromkeys(files))


def _files(item: str | Path, cache: Path, report: Report) -> list[Path]:
    if item == PYTHON_DOCS:
        return python_docs()
    if item in DOWNLOADS:
        return [download(item, cache, report)]
    if hub.is_hub(item):
        return hub.dataset(item, cache, report)
    if url.is_url(item):
        return [url.file(item, cache, report)]
    return _find(item, report)


def check_source(name_or_path: str) -> None:
    """Raises DataError when a path names no supported file, or an address none. Nothing is read or downloaded."""
    if name_or_path == PYTHON_DOCS or name_or_path in DOWNLOADS:
        return
    if hub.is_hub(name_or_path):
        hub.parsed(name_or_path)
    elif url.is_url(name_or_path):
        url.check(name_or_path)
    else:
        _find(name_or_path, silent)


def _find(path: str | Path, report: Report) -> list[Path]:
    try:
        return find_files([path], report)
    except DataError as error:
        close = get_close_matches(str(path), [PYTHON_DOCS, *DOWNLOADS], n=1, cutoff=0.75)
        hint = f'Did you mean the built-in name "{close[0]}"?' if close else error.hint
        raise DataError(error.message, hint) from None


def download(name: str, directory: str | Path, report: Report | None = None, **options) -> Path:
    """The file of a built-in name in `directory`, downloaded unless a verified copy is there (see `fetched`)."""
    return fetched(name, DOWNLOADS[name], Path(directory) / DOWNLOADS[name].file, report or silent, **options)
