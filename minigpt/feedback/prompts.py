"""Prompts from files of data, from text files with one a line, and from the built-in world."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from minigpt.data.examples import Conversation, LabelledAnswer, Preference, Prompt
from minigpt.data.forms import FRESH, REQUESTS, WORLD
from minigpt.data.parse.fields import fields_of
from minigpt.data.parse.formats import parse_row
from minigpt.data.parse.layouts import other_keys
from minigpt.data.read.named import resolve
from minigpt.data.read.raw_rows import Row
from minigpt.data.read.suffixes import is_text
from minigpt.data.rows import rows_of
from minigpt.errors import DataError
from minigpt.feedback.gather import Asked
from minigpt.text.messages import Message


def prompts_of(sources: Sequence[str], downloads: Path, seed: int, most: int | None = None) -> list[Asked]:
    """The prompts of some sources, or the first `most` of them: what comes before the last answer of each row, which
    needs none. Raises DataError that names a row that has no prompt, and for sources without any.
    """
    found = list(islice((asked for source in sources for asked in _of(source, downloads, seed)), most))
    if not found:
        raise DataError(f"There is no prompt in {', '.join(sources)}.", 'Write one a line, or rows {"prompt": "…"}.')
    return found


def _of(source: str, downloads: Path, seed: int) -> Iterator[Asked]:
    if source == WORLD:
        for number, row in enumerate(REQUESTS.draw(seed + FRESH, 10**9, "train"), 1):
            yield _asked(Row(f"{WORLD}:{number}", row))
    for path in [] if source == WORLD else resolve([source], downloads):
        if is_text(path):
            lines = path.read_text("utf-8-sig").splitlines()
            yield from (Asked([{"role": "user", "content": line.strip()}]) for line in lines if line.strip())
        else:
            yield from (_asked(row) for row in rows_of(path, all_used=True))


def _asked(row: Row) -> Asked:
    """The prompt of a row, and the row's other keys with the answer that it gives."""
    example = parse_row(row, prompts=True)
    if isinstance(example, Prompt):
        return _with(row, example.messages, "")
    if isinstance(example, Conversation):
        return _with(row, example.messages[:-1], example.messages[-1]["content"])
    if isinstance(example, Preference):
        return _with(row, example.prompt, example.chosen[-1]["content"])
    if isinstance(example, LabelledAnswer):
        return _with(row, example.prompt, example.answer[-1]["content"] if example.desirable else "")
    raise DataError(f"{row.where}: this row has no prompt.", 'Write {"prompt": "…"}.')


def _with(row: Row, messages: list[Message], answer: str) -> Asked:
    told = other_keys(fields_of(row.value)) | {"prompt": messages[-1]["content"]}
    return Asked(messages, told | ({"answer": answer} if answer else {}))
