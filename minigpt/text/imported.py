"""A tokenizer that came with a model: its tokenizer.json, its special tokens and its chat template."""

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from minigpt.errors import DataError, MiniGPTError
from minigpt.text.chat_template import PLAIN_TEMPLATE, Render, compiled
from minigpt.text.messages import Message, is_learned
from minigpt.text.token_bytes import bytes_of_tokens
from minigpt.text.tokenizer import Tokenizer, check_text

GUARD = "\ufdd0"  # a noncharacter, which no text has: it keeps a control token that a user wrote from being one
META = "tokenizer_meta.json"


class ImportedTokenizer(Tokenizer):
    """`files` are the tokenizer's own by name; `meta` says vocab_size, stops, end_of_text and the plain template."""

    kind = "imported"

    def __init__(self, files: dict[str, str], meta: dict):
        self.files, self.meta = files, meta
        content = json.loads(files["tokenizer.json"])
        settings = json.loads(files.get("tokenizer_config.json", "{}"))
        self._tokenizer = _loaded(files["tokenizer.json"])
        self.known: dict[str, int] = self._tokenizer.get_vocab()
        found = bytes_of_tokens(content, self.known)
        # a model may have room for more tokens than there are: these stand for nothing
        self.token_bytes = [found.get(i, b"") for i in range(meta["vocab_size"])]
        self.controls = {t["content"]: t["id"] for t in content.get("added_tokens") or [] if t["special"]}
        self._shown = {i: text.encode() for text, i in self.controls.items()}
        self._names = {key: value for key in ("bos_token", "eos_token", "unk_token", "pad_token")
                       if (value := token_text(settings.get(key)))}  # fmt: skip
        self._source = template_of(files, settings)
        self.chats = self._source is not None
        self.takes_tools = "tools" in (self._source or "")
        self.end_of_text, self.stops = meta["end_of_text"], tuple(meta["stops"])
        by_length = sorted((text for text in self.controls if len(text) > 1), key=len, reverse=True)
        self.control_names = re.compile("|".join(map(re.escape, by_length)) or "(?!)")

    # ---- texts -------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        for text in texts:
            check_text(text)
        self._tokenizer.encode_special_tokens = True  # their names in a text are text
        return [found.ids for found in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def prompt(self, text: str) -> list[int]:
        """With the token that begins a text, where the tokenizer has one."""
        check_text(text)
        self._tokenizer.encode_special_tokens = True
        return self._tokenizer.encode(text).ids or [self.end_of_text]

    def show(self, ids: Iterable[int]) -> str:
        return b"".join(self._shown.get(i) or self.token_bytes[i] for i in ids).decode("utf-8", errors="replace")

    def is_control(self, token: int) -> bool:
        return token in self._shown

    def is_byte(self, token: int) -> bool:
        return len(self.token_bytes[token]) == 1 and self.token_bytes[token] > b"\x7f"

    # ---- conversations -----------------------------------------------------------------------------------

    def render(self, messages: list[Message], open_turn: bool = False) -> tuple[list[int], list[int]]:
        """(ids, loss mask) by the model's own template; 1 on what an assistant says up to the token that ends it.

        Raises DataError when the template writes what stands before an answer differently once there is an answer: no
        mask could then say what is to be learned.
        """
        ids = self._rendered(messages, open_turn)
        mask = [0] * len(ids)
        for number, message in enumerate(messages):
            if not is_learned(message):
                continue
            start = self._start_of_answer(messages[:number], ids)
            stop = next((i for i in range(start, len(ids)) if ids[i] in self.stops), None)
            if stop is None:
                reason = f"none of its end tokens {sorted(self.stops)} follows an answer"
                raise DataError(f"The model's chat template does not say where an answer ends: {reason}.")
            mask[start : stop + 1] = [1] * (stop + 1 - start)
        return ids, mask

    def end_of_turn(self) -> int | None:
        """The control token that the template writes after an answer, if it writes one."""
        talk: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        start = self._start_of_answer(talk[:1], ids := self._rendered(talk, False))
        return next((i for i in ids[start:] if i in self._shown), None)

    def _start_of_answer(self, before: list[Message], ids: list[int]) -> int:
        opening = self._rendered(before, True)
        if ids[: len(opening)] != opening:
            raise DataError(
                "The model's chat template writes a conversation differently once it is answered, so that the answer's "
                f"tokens cannot be told from the others (after {len(before)} messages).",
                "Use conversations of one exchange, or a model with another template.",
            )
        return len(opening)

    def prompt_with_tools(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int]:
        """The ids up to the answer when functions may be called; messages may have `tool_calls` and the role "tool".

        No text in them becomes a control token, wherever it stands.
        """
        guarded = self._guarded_everywhere(messages), True, self._guarded_everywhere(tools)
        return self._encode_guarded(self._template(*guarded))

    def _guarded_everywhere(self, value: Any) -> Any:
        if isinstance(value, str):
            check_text(value)
            return self.control_names.sub(_guarded, value)
        if isinstance(value, dict):
            return {self._guarded_everywhere(key): self._guarded_everywhere(item) for key, item in value.items()}
        return [self._guarded_everywhere(item) for item in value] if isinstance(value, list) else value

    def _rendered(self, messages: list[Message], open_turn: bool) -> list[int]:
        for message in messages:
            check_text(message["content"])
        if any(self.mentions_control(message["content"]) for message in messages):
            guarded = [m | {"content": self.control_names.sub(_guarded, m["content"])} for m in messages]
            return self._encode_guarded(self._template(guarded, open_turn))
        self._tokenizer.encode_special_tokens = False
        return self._tokenizer.encode(self._template(messages, open_turn), add_special_tokens=False).ids

    def _encode_guarded(self, text: str) -> list[int]:
        ids: list[int] = []
        end = 0
        for found in self.control_names.finditer(text):
            ids += self.encode(text[end : found.start()].replace(GUARD, "")) + [self.controls[found[0]]]
            end = found.end()
        return ids + self.encode(text[end:].replace(GUARD, ""))

    def mentions_control(self, text: str) -> bool:
        """Whether the name of a control token is written in a text."""
        return self.control_names.search(text) is not None

    @cached_property
    def _template(self) -> Render:
        return compiled(self._source or PLAIN_TEMPLATE, self._names)

    # ---- files -------------------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (directory / name).write_text(text, "utf-8")
        (directory / META).write_text(json.dumps({"kind": self.kind} | self.meta), "utf-8")

    def write_files(self, directory: Path) -> None:
        """The files that other tools read, as they came, and the plain template where none came."""
        for name, text in self.files.items():
            (directory / name).write_text(text, "utf-8")
        if not self.chats:  # what the model was trained with here, if it was
            (directory / "chat_template.jinja").write_text(PLAIN_TEMPLATE, "utf-8")


FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
         "chat_template.jinja")  # fmt: skip


def load_imported(directory: Path, meta: dict) -> ImportedTokenizer:
    """The tokenizer that was saved in a run."""
    files = {name: (directory / name).read_text("utf-8") for name in FILES if (directory / name).exists()}
    return ImportedTokenizer(files, {key: value for key, value in meta.items() if key != "kind"})


def template_of(files: dict[str, str], settings: dict) -> str | None:
    """The chat template of a model: a file of its own, or in tokenizer_config.json (of several the default one)."""
    found = files.get("chat_template.jinja", settings.get("chat_template"))
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return found


def token_text(value: object) -> str | None:
    """The text of a special token, which the files give as a text or as an object."""
    return value.get("content") if isinstance(value, dict) else value if isinstance(value, str) else None


def _guarded(found: re.Match) -> str:
    return found[0][0] + GUARD + found[0][1:]


def _loaded(text: str):
    try:
        from tokenizers import Tokenizer as Foreign
    except ImportError:
        message = "Imported tokenizers need the package tokenizers."
        raise MiniGPTError(message, "Install it: pip install 'minigpt[exchange]'.") from None
    try:
        found = Foreign.from_str(text)
        found.no_truncation()
        found.no_padding()
        return found
    except Exception as error:  # the library has no class of its own for it
        raise DataError(f"tokenizer.json cannot be read: {error}.", "Copy or download it again.") from None
