"""Answers that a grammar allows: a JSON schema, a regular expression or a choice of texts.

The grammar is the work of llguidance (Microsoft and others): it says after each token which ones may follow.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from minigpt.errors import MiniGPTError, UsageError
from minigpt.text.tokenizer import Tokenizer

KEPT = 32  # grammars that stay compiled: a server is asked for the same ones again and again


@dataclass(frozen=True)
class Grammar:
    """A grammar for a tokenizer; it may serve many answers."""

    tokenizer: Tokenizer
    source: str

    def start(self) -> "Matched":
        """The beginning of an answer."""
        return Matched(self)


def json_schema(tokenizer: Tokenizer, schema: dict[str, Any] | bool | str) -> Grammar:
    """Compact JSON that fits a schema. Raises UsageError for a schema that is none, or asks for what is not known."""
    guidance = _guidance()
    text = schema if isinstance(schema, str) else json.dumps(schema)
    try:
        source = guidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
    except ValueError as error:
        raise UsageError(f"The JSON schema cannot be read: {_line(error)}.", "Give an object in JSON.") from None
    return _checked(tokenizer, source, "The JSON schema")


def regular_expression(tokenizer: Tokenizer, pattern: str) -> Grammar:
    """Texts that a regular expression matches as a whole (the syntax of Rust's crate regex)."""
    source = _guidance().LLMatcher.grammar_from_regex(pattern)
    return _checked(tokenizer, source, f"The regular expression {pattern!r}")


def choice(tokenizer: Tokenizer, texts: list[str]) -> Grammar:
    """One of several texts."""
    if not texts or not all(texts):
        raise UsageError("A choice needs texts that are not empty.", "Give at least one.")
    return regular_expression(tokenizer, "|".join(map(re.escape, texts)))


class Matched:
    """Where one answer stands in its grammar."""

    def __init__(self, grammar: Grammar):
        self._size = grammar.tokenizer.vocab_size
        self._matcher = _compiled(grammar.tokenizer, grammar.source).deep_copy()

    @property
    def done(self) -> bool:
        """Whether nothing may follow but the end."""
        return self._matcher.is_stopped()

    def allowed(self) -> np.ndarray:
        """(V,) bool: the tokens that may follow, a stop token where the answer is whole."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, bitorder="little")[: self._size].astype(bool)

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise MiniGPTError(f"The grammar cannot be followed: {_line(self._matcher.get_error())}.", "Simplify it.")


def _checked(tokenizer: Tokenizer, source: str, what: str) -> Grammar:
    if error := _compiled(tokenizer, source).get_error():
        raise UsageError(f"{what} cannot be followed: {_line(error)}.", "Write it with simpler means.")
    return Grammar(tokenizer, source)


@lru_cache(maxsize=KEPT)
def _compiled(tokenizer: Tokenizer, source: str) -> Any:
    """A matcher at the beginning of an answer, to be copied: compiling takes longer than a copy, and than a token."""
    return _guidance().LLMatcher(_tokens(tokenizer), source, log_level=0)


def _guidance() -> Any:
    try:
        import llguidance
    except ImportError:
        message = "Answers that fit a schema, an expression or a choice need the package llguidance."
        raise UsageError(message, "Install it: pip install llguidance") from None
    return llguidance


@lru_cache(maxsize=8)
def _tokens(tokenizer: Tokenizer) -> Any:
    """The tokenizer as llguidance takes it: the bytes of each token, and which ones end an answer."""
    guidance = _guidance()
    empty = {i for i, some in enumerate(tokenizer.token_bytes) if not some or tokenizer.is_control(i)}

    class Described:
        eos_token_id, bos_token_id, special_token_ids = tokenizer.stops[0], None, sorted(empty)
        tokens = [b"\xff[%d]" % i if i in empty else some for i, some in enumerate(tokenizer.token_bytes)]

        def __call__(self, text: bytes | str) -> list[int]:
            return tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", errors="replace"))

    wrapped = guidance.TokenizerWrapper(Described())
    return guidance.LLTokenizer(wrapped, n_vocab=tokenizer.vocab_size, eos_token=list(tokenizer.stops))


def _line(error: object) -> str:
    """What a message of several lines says in one, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("error: ")), lines[0] if lines else "no reason is given")
    return said.removeprefix("error: ")[:200].rstrip(".")
