"""From a raw row to a Text, a Conversation or a Preference, whichever of the common forms it is written in.

| form              | keys of the row                                                                  |
| text              | text (or the row is a bare JSON string)                                          |
| messages          | messages: [{role, content}, ...]                                                 |
| prompt/completion | prompt and completion (or question/query and response/answer): texts or messages |
| alpaca            | instruction, output; optional input, system, history: [[question, answer], ...]  |
| sharegpt          | conversations: [{from, value}, ...]                                              |
| minimind          | conversations: [{role, content}, ...]                                            |
| dpo               | prompt, chosen, rejected: texts or messages, which may repeat the prompt         |
| dpo-implicit      | chosen, rejected: whole message lists, or "\\n\\nHuman: ..." texts, begin alike |

Every form may carry `system`; other keys ("id", "task") are ignored. Nothing is repaired in silence: what
does not fit is a RowError that names `file:line`, the fault and the remedy.
"""

import difflib
import re

from minigpt.data.rows import ROLES, Conversation, Message, Parsed, Preference, Text
from minigpt.data.sources import BadRow, Row
from minigpt.errors import DataError

EXAMPLES = {
    "pretrain": '{"text": "Once upon a time ..."}',
    "sft": '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}',
    "dpo": '{"prompt": "Hi", "chosen": "Hello! How can I help?", "rejected": "What?"}',
}
SPEAKERS = {role: role for role in ROLES} | {"human": "user"}
SPEAKERS |= dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant")

_QUESTION = ("prompt", "instruction", "question", "query")
_DETAIL = ("input", "context")
_ANSWER = ("completion", "output", "response", "answer")
_SYSTEM = ("system", "system_prompt")
_ROLES = f"Roles are {', '.join(ROLES)}."
_MESSAGE = 'A message looks like this: {"role": "user", "content": "..."}'
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_OPTIONAL = ("input", "history", "system")
_KEYS = ("text", "messages", "conversations", "chosen", "rejected", "history")
_KEYS += _QUESTION + _DETAIL + _ANSWER + _SYSTEM
_OTHER_NAMES = dict.fromkeys(("content", "document", "body", "article", "story"), "text")
_OTHER_NAMES |= dict.fromkeys(("dialog", "dialogue", "chat", "turns"), "messages")


class RowError(DataError):
    """A row that cannot be used: its text is `file:line: reason. hint`."""

    def __init__(self, where: str, reason: str, hint: str = ""):
        super().__init__(f"{where}: {reason}." if where else f"{reason}.", hint)
        self.where = where
        self.reason = reason


def parse_row(row: Row | BadRow) -> Parsed:
    """What the row says, checked. Raises RowError; a BadRow from sources.py becomes one too."""
    if isinstance(row, BadRow):
        raise RowError(row.where, row.reason, row.hint)
    try:
        return _parse(detect(row.value), _fields(row.value))
    except RowError as error:
        raise RowError(row.where, error.reason, error.hint) from None


def require(parsed: Parsed, stage: str, where: str = "") -> Parsed:
    """`parsed` as what the stage trains on: "pretrain" takes Text and Conversation, "sft" Conversation (the
    chosen side of a Preference too), "dpo" Preference. Raises RowError for anything else."""
    if stage == "sft" and isinstance(parsed, Preference):
        return Conversation(parsed.prompt + parsed.chosen)
    accepted = {"pretrain": Text | Conversation, "sft": Conversation, "dpo": Preference}
    if isinstance(parsed, accepted[stage]):
        return parsed
    needed = {"pretrain": "texts or conversations", "sft": "conversations", "dpo": "preference pairs"}
    reason = f"this row is a {type(parsed).__name__.lower()}, but {stage} needs {needed[stage]}"
    raise RowError(where, reason, f"A row for {stage} looks like this: {EXAMPLES[stage]}")


def detect(value: object) -> str:
    """The name of the form (see the table above). Raises RowError when it is none of them."""
    fields = _fields(value)
    if fields.keys() >= {"chosen", "rejected"}:
        return "dpo" if _dpo_prompt(fields) else "dpo-implicit"
    if "messages" in fields:
        return "messages"
    if "conversations" in fields:
        turns = fields["conversations"]
        spoken = isinstance(turns, list) and any(isinstance(turn, dict) and "from" in turn for turn in turns)
        return "sharegpt" if spoken else "minimind"
    if _one_of(fields, _QUESTION + _DETAIL[:1], several=True) and _one_of(fields, _ANSWER, several=True):
        return "alpaca" if "instruction" in fields else "prompt/completion"
    if "text" in fields:
        return "text"
    raise _unknown(fields)


def _parse(form: str, fields: dict) -> Parsed:
    if form == "text":
        return Text(_filled(fields["text"], '"text"'))
    if form == "dpo":
        return _preference(fields)
    if form == "dpo-implicit":
        return _implicit_preference(fields)
    if form in ("alpaca", "prompt/completion"):
        messages = _question_and_answer(fields)
    else:
        key = "messages" if form == "messages" else "conversations"
        messages = _messages(fields[key], f'"{key}"')
    return Conversation(_in_turn(_system(fields) + messages))


# ---------------------------------------------------------------------------------------- the forms


def _question_and_answer(fields: dict) -> list[Message]:
    _check_optional_keys(fields)
    answer = _one_of(fields, _ANSWER)
    return _history(fields) + _question(fields) + _messages(fields[answer], f'"{answer}"', "assistant")


def _question(fields: dict) -> list[Message]:
    """The instruction, with the input (when there is one) after a blank line."""
    question, detail = _one_of(fields, _QUESTION), _one_of(fields, _DETAIL)
    if not (_present(fields, question) and _present(fields, detail)):
        key = detail if question is None or _present(fields, detail) else question
        return _messages(fields[key], f'"{key}"', "user")
    parts = [_filled(fields[key], f'"{key}"') for key in (question, detail)]
    return [{"role": "user", "content": "\n\n".join(parts)}]


def _history(fields: dict) -> list[Message]:
    if not _present(fields, "history"):
        return []
    messages = []
    rounds = fields["history"] if isinstance(fields["history"], list) else [None]
    for number, pair in enumerate(rounds, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("", f'"history" {number} is not a pair', 'Write [["question", "answer"], ...].')
        messages += _messages(pair[0], f'the question of "history" {number}', "user")
        messages += _messages(pair[1], f'the answer of "history" {number}', "assistant")
    return messages


def _system(fields: dict) -> list[Message]:
    key = _one_of(fields, _SYSTEM)
    return _messages(fields[key], f'"{key}"', "system") if _present(fields, key) else []


def _preference(fields: dict) -> Preference:
    key = _dpo_prompt(fields)
    prompt = _question(fields) if key in _QUESTION + _DETAIL else _messages(fields[key], f'"{key}"', "user")
    chosen, rejected = (_messages(fields[side], f'"{side}"', "assistant") for side in ("chosen", "rejected"))
    chosen, rejected = _without_prompt(chosen, prompt), _without_prompt(rejected, prompt)
    return _checked_pair(_system(fields) + _history(fields) + prompt, chosen, rejected)


def _dpo_prompt(fields: dict) -> str | None:
    """The key of the prompt; `messages` only beside plain answers: UltraFeedback repeats `chosen` there."""
    if key := _one_of(fields, _QUESTION) or _one_of(fields, _DETAIL[:1]):
        return key
    if "conversations" in fields:
        return "conversations"
    return "messages" if "messages" in fields and not isinstance(fields["chosen"], list) else None


def _without_prompt(answer: list[Message], prompt: list[Message]) -> list[Message]:
    """The answer behind the prompt, where the answer repeats it (with or without its system message)."""
    for start in (prompt, [message for message in prompt if message["role"] != "system"]):
        if start and _stripped(answer[: len(start)]) == _stripped(start):
            return answer[len(start) :]
    return answer


def _stripped(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in messages]


def _implicit_preference(fields: dict) -> Preference:
    for side in ("chosen", "rejected"):
        if isinstance(fields[side], str) and not fields[side].startswith("\n\nHuman:"):
            raise RowError("", 'has "chosen" and "rejected" but no "prompt"', f"Write {EXAMPLES['dpo']}")
    chosen, rejected = (_messages(fields[side], f'"{side}"') for side in ("chosen", "rejected"))
    if chosen == rejected:
        raise _same_answers()
    differs = [ours != theirs for ours, theirs in zip(chosen, rejected, strict=False)]
    shared = (differs + [True]).index(True)
    while shared and chosen[shared - 1]["role"] != "user":
        shared -= 1
    if not shared:
        reason = '"chosen" and "rejected" do not begin with the same user message'
        raise RowError("", reason, f"Write {EXAMPLES['dpo']}")
    return _checked_pair(_system(fields) + chosen[:shared], chosen[shared:], rejected[shared:])


def _checked_pair(prompt: list[Message], chosen: list[Message], rejected: list[Message]) -> Preference:
    prompt = [message for message in prompt if message["content"]]  # an empty system message has none
    if not prompt or prompt[-1]["role"] != "user":
        raise RowError("", "the prompt does not end with a user message", "Move answers out of the prompt.")
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        try:
            _in_turn(prompt + answer)
        except RowError as error:
            raise RowError("", f'prompt and "{side}" do not fit: {error.reason}', error.hint) from None
    if chosen == rejected:
        raise _same_answers()
    return Preference(prompt, chosen, rejected)


def _same_answers() -> RowError:
    return RowError("", '"chosen" and "rejected" are the same', "Delete the row: it prefers nothing.")


# ----------------------------------------------------------------------------------------- messages


def _messages(value: object, name: str, role: str = "") -> list[Message]:
    """A message list as it is; a text as one message of `role` (a "\\n\\nHuman: ..." text as its turns)."""
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        return _hh_turns(value)
    if isinstance(value, dict) and role in ("user", "assistant"):
        value = [value]
    if isinstance(value, list) and role != "system":
        return [_message(item, f"message {n} of {name}") for n, item in enumerate(value, 1)]
    if not role:
        reason = f"{name} must be a list of messages, not {_kind(value)}"
        raise RowError("", reason, f"Write {EXAMPLES['sft']}")
    return [{"role": role, "content": _filled(value, name)}]


def _hh_turns(text: str) -> list[Message]:
    """Anthropic's HH-RLHF strings; a prompt may end with an open "\\n\\nAssistant:"."""
    _, *pieces = re.split(r"\n\n(Human|Assistant):", text)
    if pieces[-2] == "Assistant" and not pieces[-1].strip():
        del pieces[-2:]
    turns = [(_HH_ROLES[name], said.strip()) for name, said in zip(pieces[::2], pieces[1::2], strict=True)]
    return [_message({"role": role, "content": said}, "a turn") for role, said in turns]


def _message(value: object, name: str) -> Message:
    if not isinstance(value, dict):
        raise RowError("", f"{name} is {_kind(value)}, not an object", _MESSAGE)
    fields = _fields(value)
    for key in ("tool_calls", "function_call"):
        if fields.get(key):
            raise RowError("", f'{name} has "{key}", which is not supported', "Only plain text is.")
    found = []
    for names in (("role", "from"), ("content", "value")):
        if not (key := next((key for key in names if key in fields), None)):
            hint = _did_you_mean(fields, ("role", "content", "from", "value")) or _MESSAGE
            raise RowError("", f'{name} has no "{names[0]}"', hint)
        found.append(fields[key])
    role, content = _role(found[0], name), _joined_parts(found[1], name)
    if role == "system" and isinstance(content, str) and not content.strip():
        return {"role": role, "content": ""}  # templates write one for every row; _in_turn drops it
    return {"role": role, "content": _filled(content, f"{name} ({role})")}


def _role(value: object, name: str) -> str:
    speaker = value.strip().lower() if isinstance(value, str) else ""
    if speaker in SPEAKERS:
        return SPEAKERS[speaker]
    if speaker in ("tool", "function", "observation", "function_call", "developer"):
        raise RowError("", f'{name} has the role "{speaker}", which is not supported', _ROLES)
    close = difflib.get_close_matches(speaker, SPEAKERS, n=1)
    shown = _short(value) if isinstance(value, str) else _kind(value)
    hint = f'Did you mean "{close[0]}"?' if close else _ROLES
    raise RowError("", f"{name} has an unknown role: {shown}", hint)


def _joined_parts(content: object, name: str) -> object:
    """OpenAI's list of parts as one text, when all parts are texts."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else _kind(part)
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            hint = 'Use plain text, or parts like {"type": "text", "text": "..."}.'
            raise RowError("", f"{name} has a part that is not a text part: {_short(kind)}", hint)
    return "".join(part["text"] for part in content)


def _in_turn(messages: list[Message]) -> list[Message]:
    """The messages without an empty system message, once they are known to come in a proper order."""
    messages = [message for message in messages if message["content"]]
    hint = "After an optional system message, user and assistant take turns; the user begins."
    expected = "user"
    for place, message in enumerate(messages):
        role = message["role"]
        if role == "system" and place == 0:
            continue
        if role != expected:
            shown = _short(message["content"])
            raise RowError("", f"the {role} speaks where the {expected} should: {shown}", hint)
        expected = "assistant" if role == "user" else "user"
    if not any(message["role"] == "user" for message in messages):
        raise RowError("", "there is no message from the user", f"Write {EXAMPLES['sft']}")
    if expected == "assistant":
        reason = "the last message is from the user, so there is no answer to learn"
        raise RowError("", reason, "Add the assistant's answer or delete that message.")
    return messages


# ----------------------------------------------------------------------------- keys, kinds, wording


def _fields(value: object) -> dict:
    """The row's keys in lower case, without those that are null; a bare string is a text."""
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise RowError("", f"the row is {_kind(value)}, not an object", f"Write {EXAMPLES['pretrain']}")
    return {str(key).strip().lower(): item for key, item in value.items() if item is not None}


def _one_of(fields: dict, names: tuple[str, ...], several: bool = False) -> str | None:
    """The one of the names that is a key. Raises RowError when there are two, unless `several` may be."""
    found = [name for name in names if name in fields]
    if len(found) > 1 and not several:
        raise RowError("", f'has both "{found[0]}" and "{found[1]}"', "Keep one of them.")
    return found[0] if found else None


def _present(fields: dict, key: str | None) -> bool:
    value = fields.get(key)
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [])


def _filled(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise RowError("", f"{name} must be text, not {_kind(value)}", "Write a text in double quotes.")
    if not value.strip():
        raise RowError("", f"{name} is empty", "Fill it in or delete the row.")
    return value


def _unknown(fields: dict) -> RowError:
    if not fields:
        return RowError("", "the object is empty", f"Write {EXAMPLES['pretrain']}")
    hint = _did_you_mean(fields, _KEYS)
    for ours, missing in (
        (("chosen",), "rejected"),
        (("rejected",), "chosen"),
        (("instruction",), "output"),
        (("question",), "answer"),
        (_QUESTION + _DETAIL, "completion"),
        (_ANSWER, "prompt"),
    ):
        if found := _one_of(fields, ours, several=True):
            return RowError("", f'has "{found}" but no "{missing}"', hint or "Add it, or delete the row.")
    if len(fields) == 1 and isinstance(next(iter(fields.values())), list):
        hint = hint or "If that list holds the rows, save the list alone."
    keys = ", ".join(_short(key) for key in list(fields)[:5])
    hint = hint or f"Use one of these forms: {' '.join(EXAMPLES.values())}"
    return RowError("", f"no known form: its keys are {keys}", hint)


def _check_optional_keys(fields: dict) -> None:
    """A misspelt optional key would be ignored like any other key, and the answer would lack its question."""
    for key in fields:
        absent = [name for name in _OPTIONAL if name not in fields and name[0] == key[:1]]
        if key not in _KEYS and difflib.get_close_matches(key, absent, cutoff=0.8):
            hint = f'Did you mean "{absent[0]}"? If not, rename the key.'
            raise RowError("", f"unknown key {_short(key)}", hint)


def _did_you_mean(fields: dict, names: tuple[str, ...]) -> str:
    absent = [name for name in names if name not in fields]
    for key in fields:
        close = [] if key in names else difflib.get_close_matches(key, absent, n=1, cutoff=0.75)
        if "text" in absent and key in _OTHER_NAMES:
            close = [_OTHER_NAMES[key]]
        if close:
            return f'Did you mean "{close[0]}" where it says {_short(key)}?'
    return ""


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return f'"{text}"' if len(text) <= 40 else f'"{text[:40]}..."'


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
