"""Tool calls in what a model says: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, held back until whole."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minigpt.generate.pieces import overlap
from minigpt.serve.asked import Function
from minigpt.serve.prompts import CLOSING, OPENING, Called
from minigpt.serve.refusals import invalid

SHORTEST_TEXT, LONGEST_TEXT, MOST_ITEMS = 20, 4_000, 20  # in a call that is forced, where its tool sets no bound


@dataclass(frozen=True)
class Choice:
    """Which of the tools a request lets the model call. `forced`: it must, and says nothing else."""

    tools: tuple[Function, ...] = ()
    forced: bool = False

    def schema(self, room: int) -> dict[str, Any] | None:
        """What a forced answer must be: one call, whose texts have bounds that fit into `room` tokens."""
        if not self.forced:
            return None
        longest = min(LONGEST_TEXT, max(SHORTEST_TEXT, room // 8))  # a character may be three tokens
        calls = [_call_of(tool, longest) for tool in self.tools]
        return calls[0] if len(calls) == 1 else {"anyOf": calls}


def choice_of(tools: Sequence[Function], wanted: str, name: str | None = None) -> Choice:
    """`wanted` is auto, none or required (any for Anthropic); a `name` forces that tool.

    Raises Refused when there is none.
    """
    if name is not None:
        found = tuple(tool for tool in tools if tool.name == name)
        if not found:
            raise invalid(f"tool_choice names {name!r}, which is none of the tools.", "tool_choice")
        return Choice(found, True)
    if wanted in ("required", "any"):
        if not tools:
            raise invalid("tool_choice needs tools.", "tool_choice")
        return Choice(tuple(tools), True)
    return Choice() if wanted == "none" else Choice(tuple(tools))


@dataclass
class Heard:
    """One answer as it comes: texts that may be shown, and calls that are whole."""

    choice: Choice
    calls: list[Called] = field(default_factory=list)
    _held: str = ""

    def hear(self, piece: str, last: bool) -> tuple[str, list[Called]]:
        """(what may be shown now, the calls that have become whole) by the next piece, or all, of the answer.

        What may become a call is held back until it is clear, by the `last` piece at the latest.
        """
        before = len(self.calls)
        shown = self._add(piece) + (self._end() if last else "")
        return shown, self.calls[before:]

    def _add(self, piece: str) -> str:
        """What of the text so far may be shown now; "" while it may become a call."""
        if not self.choice.tools:
            return piece
        self._held += piece
        if self.choice.forced:
            return ""
        shown = ""
        while True:
            start = self._held.find(OPENING)
            if start < 0:
                keep = overlap(self._held, OPENING)
                shown, self._held = shown + self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
                return shown
            end = self._held.find(CLOSING, start)
            if end < 0:
                shown, self._held = shown + self._held[:start], self._held[start:]
                return shown
            inside = self._held[start + len(OPENING) : end]
            before, self._held = self._held[:start], self._held[end + len(CLOSING) :]
            if (call := self._call(inside)) is None:
                shown += before + OPENING + inside + CLOSING
            else:
                shown += before.rstrip() if not before.strip() else before
                self.calls.append(call)

    def _end(self) -> str:
        """What is left: a forced call is read, text that was held back is shown."""
        held, self._held = self._held, ""
        if self.choice.forced or held.startswith(OPENING):
            call = self._call(held.removeprefix(OPENING))
            if call is not None:
                self.calls.append(call)
                return ""
        return held

    def _call(self, text: str) -> Called | None:
        """The call that a text is, if it is one of a tool that is there."""
        try:
            found = json.loads(text)
            arguments = found["arguments"] if isinstance(found, dict) else None
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        except (KeyError, ValueError, RecursionError):
            return None
        if not isinstance(arguments, dict) or found.get("name") not in [tool.name for tool in self.choice.tools]:
            return None
        return Called(f"call_{secrets.token_hex(12)}", found["name"], json.dumps(arguments, ensure_ascii=False))


def _call_of(tool: Function, longest: int) -> dict[str, Any]:
    """The schema of a call of one tool."""
    parts = {"name": {"const": tool.name}, "arguments": _ending(tool.parameters or {"type": "object"}, longest)}
    return {"type": "object", "additionalProperties": False, "required": list(parts), "properties": parts}


def _ending(schema: Any, longest: int) -> Any:
    """The schema with a bound where texts, lists and objects have none, so that a call ends whoever writes it."""
    if not isinstance(schema, dict):
        return [_ending(one, longest) for one in schema] if isinstance(schema, list) else schema
    found = {key: _ending(value, longest) for key, value in schema.items()}
    if found.get("type") == "string" and not found.keys() & {"maxLength", "enum", "const", "pattern", "format"}:
        found["maxLength"] = longest
    if found.get("type") == "array" and "maxItems" not in found:
        found["maxItems"] = max(MOST_ITEMS, found["minItems"] if isinstance(found.get("minItems"), int) else 0)
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found
