"""Which of the common layouts a row is written in (the table is in formats.py), from its keys alone."""

from minigpt.data.parse.fields import EXAMPLES, RowError, did_you_mean, fields_of, short

QUESTION = ("prompt", "instruction", "question", "query")
DETAIL = ("input", "context")
ANSWER = ("completion", "output", "response", "answer")
SYSTEM = ("system", "system_prompt")
KEYS = ("text", "messages", "conversations", "chosen", "rejected", "history", "completions", "labels")
KEYS += QUESTION + DETAIL + ANSWER + SYSTEM


def detect(value: object, called: str = "keys") -> str:
    """The name of the layout (see formats.py). Raises RowError when it is none of them.

    `called` is what the error calls the keys: columns, of a table.
    """
    fields = fields_of(value)
    if fields.keys() >= {"chosen", "rejected"}:
        return "dpo" if dpo_prompt(fields) else "dpo-implicit"
    if fields.keys() >= {"completions", "labels"}:
        return "steps"
    if "messages" in fields:
        return "messages"
    if "conversations" in fields:
        turns = fields["conversations"]
        spoken = isinstance(turns, list) and any(isinstance(turn, dict) and "from" in turn for turn in turns)
        return "sharegpt" if spoken else "minimind"
    if one_of(fields, QUESTION + DETAIL[:1], several=True) and one_of(fields, ANSWER, several=True):
        if is_labelled(fields):
            return "labelled"
        return "alpaca" if "instruction" in fields else "prompt/completion"
    if "text" in fields:
        return "text"
    raise _unknown(fields, called)


def keys_used(fields: dict) -> set[str]:
    """Which keys of a row are read. Raises RowError when it has no known layout."""
    layout = detect(fields)
    if layout == "text":
        return {"text"}
    names = {*SYSTEM}
    if layout in ("messages", "sharegpt", "minimind"):
        return names | {"messages" if layout == "messages" else "conversations"}
    if layout == "dpo-implicit":
        return names | {"chosen", "rejected", "margin"}
    names |= {*QUESTION, *DETAIL, "history"}
    if layout == "steps":
        return names | {"completions", "labels"}
    names |= {"label"} if layout == "labelled" else set()
    return names | ({"chosen", "rejected", "margin", dpo_prompt(fields)} if layout == "dpo" else {*ANSWER})


def other_keys(fields: dict) -> dict:
    """What a row says beyond its prompt and its answer."""
    return {name: value for name, value in fields.items() if name not in KEYS}


def is_labelled(fields: dict) -> bool:
    """Whether a row is an answer that is said to be good or bad, without another one to compare (KTO's layout)."""
    answer = one_of(fields, QUESTION, several=True) and one_of(fields, ANSWER, several=True)
    return bool(answer) and (isinstance(fields.get("label"), bool) or fields.get("label") in (0, 1))


def is_prompt(fields: dict) -> bool:
    """Whether a row has a question and no answer."""
    others = (*ANSWER, "completions", "text", "messages", "conversations", "chosen", "rejected")
    asks = one_of(fields, QUESTION, several=True) is not None
    return asks and not any(name in fields for name in others)


def dpo_prompt(fields: dict) -> str | None:
    """The key of the prompt; `messages` only beside plain answers: UltraFeedback repeats `chosen` there."""
    if key := one_of(fields, QUESTION) or one_of(fields, DETAIL[:1]):
        return key
    if "conversations" in fields:
        return "conversations"
    return "messages" if "messages" in fields and not isinstance(fields["chosen"], list) else None


def one_of(fields: dict, names: tuple[str, ...], several: bool = False) -> str | None:
    """The one of the names that is a key. Raises RowError when there are two, unless `several` may be."""
    found = [name for name in names if name in fields]
    if len(found) > 1 and not several:
        raise RowError("", f'has both "{found[0]}" and "{found[1]}"', "Keep one of them.")
    return found[0] if found else None


def _unknown(fields: dict, called: str) -> RowError:
    if not fields:
        return RowError("", "the object is empty", f"Write {EXAMPLES['text']}")
    hint = did_you_mean(fields, KEYS)
    for ours, missing in (
        (("chosen",), "rejected"),
        (("rejected",), "chosen"),
        (("instruction",), "output"),
        (("question",), "answer"),
        (("completions",), "labels"),
        (QUESTION + DETAIL, "completion"),
        (ANSWER, "prompt"),
    ):
        if found := one_of(fields, ours, several=True):
            remedy = f"Add that column to {_keys(fields)}." if called == "columns" else "Add it, or delete the row."
            return RowError("", f'has "{found}" but no "{missing}"', hint or remedy)
    if len(fields) == 1 and isinstance(next(iter(fields.values())), list):
        hint = hint or "If that list holds the rows, save the list alone."
    if called == "columns":
        hint = hint or "Name the columns text; prompt and completion; or prompt, chosen and rejected."
    hint = hint or f"Use one of these forms: {' '.join(EXAMPLES.values())}"
    return RowError("", f"no known form: its {called} are {_keys(fields)}", hint)


def _keys(fields: dict) -> str:
    return ", ".join(short(key) for key in list(fields)[:5])
