"""The keys and values of a row, and the words for what is wrong with them."""

import difflib

from minigpt.errors import DataError

EXAMPLES = {
    "text": '{"text": "Once upon a time ..."}',
    "messages": '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}',
    "pair": '{"prompt": "Hi", "chosen": "Hello! How can I help?", "rejected": "What?"}',
    "steps": '{"prompt": "2 + 3 + 4?", "completions": ["2 + 3 = 5", "5 + 4 = 8"], "labels": [true, false]}',
    "labelled": '{"prompt": "Hi", "completion": "Hello! How can I help?", "label": true}',
}
_OTHER_NAMES = dict.fromkeys(("content", "document", "body", "article", "story"), "text")
_OTHER_NAMES |= dict.fromkeys(("dialog", "dialogue", "chat", "turns"), "messages")


class RowError(DataError):
    """A row that cannot be used: its text is `file:line: reason. hint`; so many `lines` of the file are lost."""

    def __init__(self, where: str, reason: str, hint: str = "", lines: int = 1):
        super().__init__(f"{where}: {reason}." if where else f"{reason}.", hint)
        self.where = where
        self.reason = reason
        self.lines = lines


def fields_of(value: object) -> dict:
    """The row's keys in lower case, without those that are null; a bare string is a text. Raises RowError."""
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise RowError("", f"the row is {kind_of(value)}, not an object", f"Write {EXAMPLES['text']}")
    return {str(key).strip().lower(): item for key, item in value.items() if item is not None}


def filled(value: object, name: str) -> str:
    """The value, a text that is not blank. Raises RowError for anything else."""
    if not isinstance(value, str):
        raise RowError("", f"{name} must be text, not {kind_of(value)}", "Write a text in double quotes.")
    if not value.strip():
        raise RowError("", f"{name} is empty", "Fill it in or delete the row.")
    return value


def did_you_mean(fields: dict, names: tuple[str, ...]) -> str:
    """A hint at the first key that resembles one of `names` which is absent; "" without one."""
    absent = [name for name in names if name not in fields]
    for key in fields:
        close = [] if key in names else difflib.get_close_matches(key, absent, n=1, cutoff=0.75)
        if "text" in absent and key in _OTHER_NAMES:
            close = [_OTHER_NAMES[key]]
        if close:
            return f'Did you mean "{close[0]}" where it says {short(key)}?'
    return ""


def short(value: object) -> str:
    """The value in quotes, on one line, cut after 40 characters."""
    text = " ".join(str(value).split())
    return f'"{text}"' if len(text) <= 40 else f'"{text[:40]}..."'


def kind_of(value: object) -> str:
    """The type of a JSON value in the words of a sentence."""
    names = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
