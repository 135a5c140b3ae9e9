"""Rows whose one text is written with the names of control tokens, in the forms that are known.

| text                                                             | becomes                                      |
| one<|endoftext|>two                                              | two rows                                     |
| <|im_start|>question<|im_end|> <|im_start|>answer<|im_end|>      | a text without the marks (MiniMind's rows)   |
| <|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎Hello<|im_end|> | a conversation                            |
"""

import re
from collections.abc import Iterator

from minigpt.data.parse.fields import RowError
from minigpt.data.parse.formats import parse_row
from minigpt.data.parse.layouts import detect
from minigpt.data.read.markers import END_OF_DOCUMENT, Markers, names_in
from minigpt.data.read.raw_rows import BadRow, Row, texts_in
from minigpt.text.messages import ROLES

_TURN = re.compile(r"<\|im_start\|>(.*?)(?:<\|im_end\|>\s*|\Z)", re.DOTALL)


def unmarked(row: Row | BadRow, markers: Markers) -> Iterator[Row | BadRow]:
    """The row, or the rows that it is split or turned into; what stays in its texts is counted in `markers`."""
    if isinstance(row, BadRow) or not any(map(names_in, texts_in(row.value))):
        yield row
    elif not _is_text(row.value):
        _count(row, markers)
        yield row
    else:
        yield from _documents(row, markers)


def _is_text(value: object) -> bool:
    try:
        text = value if isinstance(value, str) else detect(value) == "text" and _text_of(value)
    except RowError:
        return False
    return isinstance(text, str)


def _text_of(value: object) -> object:
    return value if isinstance(value, str) else next(v for k, v in value.items() if str(k).strip().lower() == "text")


def _documents(row: Row, markers: Markers) -> Iterator[Row]:
    text = _text_of(row.value)
    documents = [document for document in text.split(END_OF_DOCUMENT) if document.strip()]
    markers.splits += text.count(END_OF_DOCUMENT)
    for document in documents or [""]:
        value = _value(document, markers)
        converted = Row(row.where, value, row.of_table)
        _count(converted, markers)
        yield converted


def _value(document: str, markers: Markers) -> dict:
    """The document as a row: a conversation, a text without marks, or the text as it is."""
    turns = [turn.strip() for turn in _TURN.findall(document)]
    if not any(turns) or _TURN.sub("", document).strip() or any("<|im_start|>" in turn for turn in turns):
        return {"text": document}
    said = [turn.partition("\n") for turn in turns]
    if all(role.strip() in ROLES for role, *_ in said):
        conversation = {"messages": [{"role": role.strip(), "content": content} for role, _, content in said]}
        if _is_proper(conversation):
            markers.converted["conversations"] += 1
            return conversation
        turns = [content.strip() for _, _, content in said]
    markers.converted["texts"] += 1
    return {"text": "\n".join(filter(None, turns))}


def _is_proper(conversation: dict) -> bool:
    try:
        parse_row(Row("", conversation))
    except RowError:
        return False
    return True


def _count(row: Row, markers: Markers) -> None:
    for text in texts_in(row.value):
        markers.count(text)
