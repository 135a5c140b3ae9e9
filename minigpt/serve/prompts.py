"""From a conversation to the ids that a model answers: by the template that the model was taught with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minigpt.errors import MiniGPTError
from minigpt.serve.asked import Function
from minigpt.serve.refusals import Refused, invalid
from minigpt.serve.worker import Served
from minigpt.text.chatml import render
from minigpt.text.messages import Message

# How models are told of tools whose template has no words for it: the format of Hermes and Qwen.
OPENING, CLOSING = "<tool_call>", "</tool_call>"  # around a call in what a model says
TOLD = (
    "You may call one or more functions. They are described here, one a line:\n<tools>\n{tools}\n</tools>\n"
    f'To call one, answer with\n{OPENING}\n{{{{"name": NAME, "arguments": {{{{…}}}}}}}}\n{CLOSING}'
)


@dataclass(frozen=True)
class Called:
    """A function that an assistant has called; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Turn:
    """A message of any of the APIs: role is system, user, assistant or tool."""

    role: str
    content: str
    calls: tuple[Called, ...] = ()


def prompt_ids(model: Served, turns: Sequence[Turn], tools: Sequence[Function] = ()) -> list[int]:
    """The ids up to the answer. Raises Refused for a conversation that the template or the context cannot take."""
    tokenizer = model.engine.tokenizer
    check_size(model, sum(len(turn.content) for turn in turns), "messages")
    try:
        if tools and tokenizer.takes_tools:
            ids = tokenizer.prompt_with_tools([_templated(turn) for turn in turns], [_described(one) for one in tools])
        else:
            ids, _ = render(tokenizer, _plain(turns, tools), generation_prompt=True)
    except MiniGPTError as error:
        raise invalid(str(error), "messages") from None
    check_length(model, ids, "messages")
    return ids


def text_ids(model: Served, text: str, param: str = "prompt") -> list[int]:
    """The ids of a text that is to be continued. Raises Refused as `prompt_ids` does."""
    check_size(model, len(text), param)
    try:
        ids = model.engine.tokenizer.prompt(text)
    except MiniGPTError as error:
        raise invalid(str(error), param) from None
    check_length(model, ids, param)
    return ids


def check_size(model: Served, characters: int, param: str) -> None:
    """Refuse what is much too long before the tokenizer, and all who wait for it, spend time on it."""
    if characters > model.most_bytes:
        message = f"This model's context has {model.context} tokens; {characters:,} characters are more. Shorten it."
        raise Refused(400, message, "context_length_exceeded", param)


def check_length(model: Served, ids: Sequence[int], param: str) -> None:
    if len(ids) >= model.context:
        message = f"This model's context has {model.context} tokens, and the prompt has {len(ids)}."
        raise Refused(400, f"{message} Shorten it.", "context_length_exceeded", param)


def _plain(turns: Sequence[Turn], tools: Sequence[Function]) -> list[Message]:
    """Messages of the three roles that every template knows; calls, their results and tools are told in words."""
    messages: list[Message] = []
    if tools:
        shown = "\n".join(json.dumps(_described(tool), ensure_ascii=False) for tool in tools)
        messages.append({"role": "system", "content": TOLD.format(tools=shown)})
    for turn in turns:
        role, content = turn.role, turn.content
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        for one in turn.calls:
            call = json.dumps({"name": one.name, "arguments": _read(one.arguments)}, ensure_ascii=False)
            content += f"{chr(10) if content else ''}{OPENING}\n{call}\n{CLOSING}"
        if role == "system" and messages and messages[-1]["role"] == "system":
            messages[-1] = {"role": role, "content": f"{messages[-1]['content']}\n\n{content}"}
        else:
            messages.append({"role": role, "content": content})
    return messages


def _templated(turn: Turn) -> dict[str, Any]:
    """A message as templates for tools read it."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.calls:
        message["tool_calls"] = [
            {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": _read(one.arguments)}}
            for one in turn.calls
        ]
    return message


def _described(tool: Function) -> dict[str, Any]:
    told = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters or {}}
    return {"type": "function", "function": told}


def _read(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
