"""Keys of rows and of their messages that no form reads: each is named once for a file."""

from collections import Counter
from pathlib import Path

from minigpt.data.parse.fields import RowError, fields_of
from minigpt.data.parse.layouts import keys_used
from minigpt.data.parse.messages import MESSAGE_KEYS
from minigpt.events import Note, Report

_NOTHING = (None, "", [], {})


class UnusedKeys:
    """What the rows of a file have besides what is used of them. Keys without a value are not counted."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()

    def count(self, value: object) -> None:
        """Look at the value of a row; one of no known form is an error of its own and not counted."""
        try:
            fields = fields_of(value)
            used = keys_used(fields)
        except RowError:
            return
        self.rows.update(key for key, item in fields.items() if key not in used and item not in _NOTHING)
        for key in used & fields.keys():
            for message in fields[key] if isinstance(fields[key], list) else ():
                if isinstance(message, dict):
                    found = {str(name).strip().lower() for name, item in message.items() if item not in _NOTHING}
                    self.messages.update(found - MESSAGE_KEYS)

    def tell(self, report: Report) -> None:
        """One note for the rows' keys and one for the messages'."""
        if self.rows:
            report(Note(f"{self.path}: not used of the rows: {_named(self.rows, 'row')}."))
        if self.messages:
            report(Note(f"{self.path}: not used of the messages: {_named(self.messages, 'message')}."))


def _named(counts: Counter[str], unit: str, most: int = 8) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f'"{key}" ({count:,} {unit}{"s" * (count != 1)})' for key, count in ordered[:most]]
    more = f" and {len(counts) - most:,} more" if len(counts) > most else ""
    return ", ".join(shown) + more
