"""Which files are data, by their names."""

from pathlib import Path

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")
ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
SUPPORTED = f"Supported are {' '.join(TEXT_SUFFIXES + ROW_SUFFIXES)}, all but .parquet also with .gz."


def is_text(path: str | Path) -> bool:
    """True for a file that `read_text` reads, False for one that `read_rows` reads."""
    return suffix_of(path) in TEXT_SUFFIXES


def is_supported(path: str | Path) -> bool:
    """Whether the file can be read."""
    return suffix_of(path) in TEXT_SUFFIXES + ROW_SUFFIXES


def suffix_of(path: str | Path) -> str:
    """The suffix in lower case, of a .gz file the one before it."""
    name = Path(path).name.lower()
    return Path(name.removesuffix(".gz")).suffix
