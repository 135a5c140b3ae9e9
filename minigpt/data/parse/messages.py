"""The messages of a row, from a list of OpenAI's or ShareGPT's kind, an HH string or a single text."""

import difflib
import re

from minigpt.data.parse.fields import EXAMPLES, RowError, did_you_mean, fields_of, filled, kind_of, short
from minigpt.text.messages import ROLES, Message

SPEAKERS = {role: role for role in ROLES} | {"human": "user"}
SPEAKERS |= dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant")
_ROLES = f"Roles are {', '.join(ROLES)}."
_SWITCHES = ("train", "training", "loss")  # what axolotl and ms-swift call OpenAI's weight: true or false
MESSAGE_KEYS = {"role", "from", "content", "value", "weight", *_SWITCHES}
_MESSAGE = 'A message looks like this: {"role": "user", "content": "..."}'
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def messages_of(value: object, name: str, role: str = "") -> list[Message]:
    """A message list as it is; a text as one message of `role` (a "\\n\\nHuman: ..." text as its turns).

    Raises RowError for anything else.
    """
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        return _hh_turns(value)
    if isinstance(value, dict) and role in ("user", "assistant"):
        value = [value]
    if isinstance(value, list) and role != "system":
        return [_message(item, f"message {n} of {name}") for n, item in enumerate(value, 1)]
    if not role:
        reason = f"{name} must be a list of messages, not {kind_of(value)}"
        raise RowError("", reason, f"Write {EXAMPLES['messages']}")
    return [{"role": role, "content": filled(value, name)}]


def _hh_turns(text: str) -> list[Message]:
    """Anthropic's HH-RLHF strings; a prompt may end with an open "\\n\\nAssistant:"."""
    _, *pieces = re.split(r"\n\n(Human|Assistant):", text)
    if pieces[-2] == "Assistant" and not pieces[-1].strip():
        del pieces[-2:]
    turns = [(_HH_ROLES[name], said.strip()) for name, said in zip(pieces[::2], pieces[1::2], strict=True)]
    return [_message({"role": role, "content": said}, "a turn") for role, said in turns]


def _message(value: object, name: str) -> Message:
    if not isinstance(value, dict):
        raise RowError("", f"{name} is {kind_of(value)}, not an object", _MESSAGE)
    fields = fields_of(value)
    for key in ("tool_calls", "function_call"):
        if fields.get(key):
            raise RowError("", f'{name} has "{key}", which is not supported', "Only plain text is.")
    found = []
    for names in (("role", "from"), ("content", "value")):
        if not (key := next((key for key in names if key in fields), None)):
            hint = did_you_mean(fields, ("role", "content", "from", "value")) or _MESSAGE
            raise RowError("", f'{name} has no "{names[0]}"', hint)
        found.append(fields[key])
    role, content = _role(found[0], name), _joined_parts(found[1], name)
    if role == "system" and isinstance(content, str) and not content.strip():
        return {"role": role, "content": ""}  # templates write one for every row; in_turn drops it
    message: Message = {"role": role, "content": filled(content, f"{name} ({role})")}
    return message | {"weight": 0} if role == "assistant" and _masked(fields, name) else message


def _masked(fields: dict, name: str) -> bool:
    """Whether a message says of itself that it is not to be learned. Raises RowError for a share of learning."""
    if (weight := fields.get("weight", 1)) not in (0, 1):
        raise RowError("", f"{name} has the weight {short(weight)}", "It is 1 (learned) or 0 (not learned).")
    return weight == 0 or any(fields.get(key) is False for key in _SWITCHES)


def _role(value: object, name: str) -> str:
    speaker = value.strip().lower() if isinstance(value, str) else ""
    if speaker in SPEAKERS:
        return SPEAKERS[speaker]
    if speaker in ("tool", "function", "observation", "function_call", "developer"):
        raise RowError("", f'{name} has the role "{speaker}", which is not supported', _ROLES)
    close = difflib.get_close_matches(speaker, SPEAKERS, n=1)
    shown = short(value) if isinstance(value, str) else kind_of(value)
    hint = f'Did you mean "{close[0]}"?' if close else _ROLES
    raise RowError("", f"{name} has an unknown role: {shown}", hint)


def _joined_parts(content: object, name: str) -> object:
    """OpenAI's list of parts as one text, when all parts are texts."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else kind_of(part)
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            hint = 'Use plain text, or parts like {"type": "text", "text": "..."}.'
            raise RowError("", f"{name} has a part that is not a text part: {short(kind)}", hint)
    return "".join(part["text"] for part in content)


def in_turn(messages: list[Message]) -> list[Message]:
    """The messages without an empty system message, once they are known to come in a proper order.

    Raises RowError when they do not.
    """
    messages = [message for message in messages if message["content"]]
    hint = "After an optional system message, user and assistant take turns; the user begins."
    expected = "user"
    for place, message in enumerate(messages):
        role = message["role"]
        if role == "system" and place == 0:
            continue
        if role != expected:
            shown = short(message["content"])
            raise RowError("", f"the {role} speaks where the {expected} should: {shown}", hint)
        expected = "assistant" if role == "user" else "user"
    if not any(message["role"] == "user" for message in messages):
        raise RowError("", "there is no message from the user", f"Write {EXAMPLES['messages']}")
    if expected == "assistant":
        reason = "the last message is from the user, so there is no answer to learn"
        raise RowError("", reason, "Add the assistant's answer or delete that message.")
    return messages
