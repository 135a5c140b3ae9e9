"""From a raw row to a Text, a Conversation, a Preference, a LabelledAnswer or Steps, in whichever common layout.

| layout            | keys of the row                                                                  |
| text              | text (or the row is a bare JSON string)                                          |
| messages          | messages: [{role, content}, ...]                                                 |
| prompt/completion | prompt and completion (or question/query and response/answer): texts or messages |
| alpaca            | instruction, output; optional input, system, history: [[question, answer], ...]  |
| labelled          | as prompt/completion or alpaca, and label: true or false (1 or 0)                |
| sharegpt          | conversations: [{from, value}, ...]                                              |
| minimind          | conversations: [{role, content}, ...]                                            |
| dpo               | prompt, chosen, rejected: texts or messages, which may repeat the prompt         |
| dpo-implicit      | chosen, rejected: whole message lists, or "\\n\\nHuman: ..." texts, begin alike |
| steps             | prompt, completions: the steps of an answer, labels: whether each one is right   |

Every layout but text may carry `system`; other keys ("id", "task") are not used, see unused.py. An assistant's message
may have `weight` 0: it is not learned. A pair may have a `margin`: how much better the chosen answer is. Nothing is
repaired in silence: what does not fit is a RowError that names `file:line`, the fault and the remedy.
"""

import difflib
import math

from minigpt.data.examples import Conversation, Example, LabelledAnswer, Preference, Prompt, Steps, Text
from minigpt.data.parse.fields import EXAMPLES, RowError, fields_of, filled, short
from minigpt.data.parse.layouts import ANSWER, DETAIL, KEYS, QUESTION, SYSTEM, detect, dpo_prompt, is_prompt, one_of
from minigpt.data.parse.messages import in_turn, messages_of
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.text.messages import Message, is_learned

_OPTIONAL = ("input", "history", "system")


def parse_row(row: Row | BadRow, prompts: bool = False) -> Example:
    """What the row says, checked; with `prompts` it may lack an answer. Raises RowError; a BadRow from sources.py
    becomes one too.
    """
    if isinstance(row, BadRow):
        raise RowError(row.where, row.reason, row.hint, row.lines)
    try:
        if prompts and is_prompt(fields := fields_of(row.value)):
            return _prompt(fields)
        return _parse(detect(row.value, "columns" if row.of_table else "keys"), fields_of(row.value))
    except RowError as error:
        raise RowError(row.where, error.reason, error.hint) from None


def _parse(layout: str, fields: dict) -> Example:
    if layout == "text":
        return Text(filled(fields["text"], '"text"'))
    if layout == "dpo":
        return _preference(fields)
    if layout == "dpo-implicit":
        return _implicit_preference(fields)
    if layout == "steps":
        return _steps(fields)
    if layout in ("alpaca", "prompt/completion", "labelled"):
        messages = _question_and_answer(fields)
    else:
        key = "messages" if layout == "messages" else "conversations"
        messages = messages_of(fields[key], f'"{key}"')
    messages = in_turn(_system(fields) + messages)
    if not any(map(is_learned, messages)):
        raise RowError("", "every answer has the weight 0, so there is nothing to learn", "Delete the row.")
    if layout == "labelled":
        return LabelledAnswer(messages[:-1], messages[-1:], bool(fields["label"]))
    return Conversation(messages)


# ---------------------------------------------------------------------------------------- the layouts


def _question_and_answer(fields: dict) -> list[Message]:
    _check_optional_keys(fields)
    answer = one_of(fields, ANSWER)
    return _history(fields) + _question(fields) + messages_of(fields[answer], f'"{answer}"', "assistant")


def _prompt(fields: dict) -> Prompt:
    """A question that nobody has answered yet, with what was said before it."""
    messages = [one for one in _system(fields) + _history(fields) + _question(fields) if one["content"]]
    in_turn([*messages, {"role": "assistant", "content": "…"}])
    return Prompt(messages)


def _question(fields: dict) -> list[Message]:
    """The instruction, with the input (when there is one) after a blank line."""
    question, detail = one_of(fields, QUESTION), one_of(fields, DETAIL)
    if not (_present(fields, question) and _present(fields, detail)):
        key = detail if question is None or _present(fields, detail) else question
        return messages_of(fields[key], f'"{key}"', "user")
    parts = [filled(fields[key], f'"{key}"') for key in (question, detail)]
    return [{"role": "user", "content": "\n\n".join(parts)}]


def _history(fields: dict) -> list[Message]:
    if not _present(fields, "history"):
        return []
    messages = []
    rounds = fields["history"] if isinstance(fields["history"], list) else [None]
    for number, pair in enumerate(rounds, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("", f'"history" {number} is not a pair', 'Write [["question", "answer"], ...].')
        messages += messages_of(pair[0], f'the question of "history" {number}', "user")
        messages += messages_of(pair[1], f'the answer of "history" {number}', "assistant")
    return messages


def _system(fields: dict) -> list[Message]:
    key = one_of(fields, SYSTEM)
    return messages_of(fields[key], f'"{key}"', "system") if _present(fields, key) else []


def _preference(fields: dict) -> Preference:
    key = dpo_prompt(fields)
    prompt = _question(fields) if key in QUESTION + DETAIL else messages_of(fields[key], f'"{key}"', "user")
    chosen, rejected = (messages_of(fields[side], f'"{side}"', "assistant") for side in ("chosen", "rejected"))
    chosen, rejected = _without_prompt(chosen, prompt), _without_prompt(rejected, prompt)
    return _checked_pair(_system(fields) + _history(fields) + prompt, chosen, rejected, _margin(fields))


def _without_prompt(answer: list[Message], prompt: list[Message]) -> list[Message]:
    """The answer after the prompt, where the answer repeats it (with or without its system message)."""
    for start in (prompt, [message for message in prompt if message["role"] != "system"]):
        if start and _stripped(answer[: len(start)]) == _stripped(start):
            return answer[len(start) :]
    return answer


def _stripped(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in messages]


def _implicit_preference(fields: dict) -> Preference:
    for side in ("chosen", "rejected"):
        if isinstance(fields[side], str) and not fields[side].startswith("\n\nHuman:"):
            raise RowError("", 'has "chosen" and "rejected" but no "prompt"', f"Write {EXAMPLES['pair']}")
    chosen, rejected = (messages_of(fields[side], f'"{side}"') for side in ("chosen", "rejected"))
    if chosen == rejected:
        raise _same_answers()
    differs = [ours != theirs for ours, theirs in zip(chosen, rejected, strict=False)]
    shared = (differs + [True]).index(True)
    while shared and chosen[shared - 1]["role"] != "user":
        shared -= 1
    if not shared:
        reason = '"chosen" and "rejected" do not begin with the same user message'
        raise RowError("", reason, f"Write {EXAMPLES['pair']}")
    return _checked_pair(_system(fields) + chosen[:shared], chosen[shared:], rejected[shared:], _margin(fields))


def _margin(fields: dict) -> float | None:
    """How much better the chosen answer is, where the row says so."""
    value = fields.get("margin")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RowError("", f'"margin" is {short(value)}, which is no number', "Write a number, or omit it.")
    return float(value)


def _steps(fields: dict) -> Steps:
    """A question, the lines of an answer, and for each of them whether it is right."""
    prompt = _checked_prompt(_system(fields) + _history(fields) + _question(fields))
    steps, labels = fields["completions"], fields["labels"]
    for name, value in (("completions", steps), ("labels", labels)):
        if not isinstance(value, list) or not value:
            raise RowError("", f'"{name}" is no list of steps', f"Write {EXAMPLES['steps']}")
    if len(steps) != len(labels):
        raise RowError("", f"there are {len(steps)} completions and {len(labels)} labels", "Give one label a step.")
    steps = [filled(step, f'step {number} of "completions"').strip() for number, step in enumerate(steps, 1)]
    for number, (step, label) in enumerate(zip(steps, labels, strict=True), 1):
        if len(step.splitlines()) > 1:
            raise RowError("", f"step {number} has a line break", "A step is one line: write it on one, or as several.")
        if not isinstance(label, bool) and label not in (0, 1):
            raise RowError("", f"the label of step {number} is {short(label)}", "Write true or false.")
    return Steps(prompt, steps, [bool(label) for label in labels])


def _checked_pair(
    prompt: list[Message], chosen: list[Message], rejected: list[Message], margin: float | None
) -> Preference:
    prompt = _checked_prompt(prompt)
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        try:
            in_turn(prompt + answer)
        except RowError as error:
            raise RowError("", f'prompt and "{side}" do not fit: {error.reason}', error.hint) from None
    if chosen == rejected:
        raise _same_answers()
    if not all(is_learned(message) for message in chosen + rejected if message["role"] == "assistant"):
        raise RowError("", "an answer of the pair has the weight 0", "Only answers in the prompt may have it.")
    return Preference(prompt, chosen, rejected, margin)


def _checked_prompt(prompt: list[Message]) -> list[Message]:
    prompt = [message for message in prompt if message["content"]]  # an empty system message has none
    if not prompt or prompt[-1]["role"] != "user":
        raise RowError("", "the prompt does not end with a user message", "Move answers out of the prompt.")
    return prompt


def _same_answers() -> RowError:
    return RowError("", '"chosen" and "rejected" are the same', "Delete the row: it prefers nothing.")


def _present(fields: dict, key: str | None) -> bool:
    value = fields.get(key)
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [])


def _check_optional_keys(fields: dict) -> None:
    """A misspelt optional key would be ignored like any other key, and the answer would lack its question."""
    for key in fields:
        absent = [name for name in _OPTIONAL if name not in fields and name[0] == key[:1]]
        if key not in KEYS and difflib.get_close_matches(key, absent, cutoff=0.8):
            hint = f'Did you mean "{absent[0]}"? If not, rename the key.'
            raise RowError("", f"unknown key {short(key)}", hint)
