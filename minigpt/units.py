"""Sizes, times and shares as people write them, both ways; texts made short."""

import re

from minigpt.errors import UsageError

UNITS = {"K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
BINARY = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
AMBIGUOUS = 32  # a bare number up to this one may well be meant as gigabytes


def parse_share(text: str, flag: str) -> float:
    """The share in (0, 1] that "60" or "60%" means. Raises UsageError that names `flag`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text.strip())
    if found is None or not 0 < float(found[1]) <= 100:
        raise UsageError(f"{flag} {text!r} is not a share of the machine.", f"Give percent, such as {flag} 60.")
    return float(found[1]) / 100


def parse_memory(text: str, total: int, flag: str = "--max-memory") -> int:
    """The bytes that "4GB", "512MiB" or, in percent of `total`, "50%" or "70" mean.

    GB is 10⁹ bytes and GiB 2³⁰. Raises UsageError that names `flag` for what is no size, for more than there is, and
    for a bare number of at most 32, which may mean gigabytes or percent.
    """
    text = text.strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?", text, re.IGNORECASE)
    if found is not None:
        size = int(float(found[1]) * (BINARY if found[3] else UNITS)[found[2].upper()])
        if 0 < size <= total:
            return size
        what = f"{flag} {text!r} is not a part of this machine's memory of {gigabytes(total)}."
        raise UsageError(what, f"Give less, such as {flag} 70%.")
    if re.search(r"[a-z]", text, re.IGNORECASE):
        examples = f"{flag} 70% or {flag} 4GB"
        raise UsageError(f"{flag} {text!r} is not a size.", f"Give percent or a size, such as {examples}.")
    share = parse_share(text, flag)
    if not text.endswith("%") and 100 * share <= AMBIGUOUS:
        question = f"Is {text}GB or {text}% of this machine's {gigabytes(total)} meant?"
        raise UsageError(f"{flag} {text} has no unit.", f"{question} Write {flag} {text}GB or {flag} {text}%.")
    return int(share * total)


def parse_time(text: str, flag: str = "--time") -> float:
    """The seconds that "20m", "1h30m", "90s" or, in minutes, "20" mean. Raises UsageError that names `flag`."""
    text, number = text.strip().lower(), r"(\d+(?:\.\d+)?)\s*"
    written = f"{text}m" if re.fullmatch(r"\d+(\.\d+)?", text) else text
    found = re.fullmatch(rf"(?:{number}h)?\s*(?:{number}m(?:in)?)?\s*(?:{number}s)?", written)
    hours, minutes, seconds = ((float(part) if part else 0.0) for part in found.groups()) if found else (0.0,) * 3
    if not 0 < hours * 3600 + minutes * 60 + seconds < 1e9:
        raise UsageError(f"{flag} {text!r} is not a time.", f"Give it such as {flag} 20m or {flag} 1h30m.")
    return hours * 3600 + minutes * 60 + seconds


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and "…", together `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def gigabytes(size: float) -> str:
    """Bytes as people say them: 412 MB, 3.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def bytes_in_words(count: float) -> str:
    """Bytes in the unit that people would choose."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
