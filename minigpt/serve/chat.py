"""`/v1/chat/completions`: OpenAI's chat."""

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field, model_validator
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from minigpt.serve.asked import Body, Chance, Format, Function, Metadata, Text, Tokens
from minigpt.serve.bounds import MOST_ALTERNATIVES, MOST_MESSAGES, MOST_TOOLS
from minigpt.serve.calls import Call
from minigpt.serve.prompts import Called, Turn, prompt_ids
from minigpt.serve.service import FINGERPRINT, Service, fresh_seed, new_id, usage
from minigpt.serve.streams import DONE, event
from minigpt.serve.tools import Choice, Heard, choice_of

if TYPE_CHECKING:
    from minigpt.generate.request import Token
    from minigpt.serve.worker import Served


class FunctionCall(Body):
    name: str = Field(max_length=64)
    arguments: str = Field(max_length=100_000)


class ToolCall(Body):
    id: str = Field(max_length=200)
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = Field(None, ge=0)  # what clients that have put a stream together leave in


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | None = None
    name: str | None = Field(None, max_length=200)
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_TOOLS)] | None = None
    tool_call_id: str | None = Field(None, max_length=200)
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _whole(self) -> "Message":
        if self.content is None and not self.tool_calls and not self.refusal:
            raise ValueError("the message has no content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant calls tools")
        return self

    @property
    def turn(self) -> Turn:
        calls = [Called(one.id, one.function.name, one.function.arguments) for one in self.tool_calls or []]
        role = "system" if self.role == "developer" else self.role
        return Turn(role, self.content or self.refusal or "", tuple(calls))


class Tool(Body):
    type: Literal["function"]
    function: Function


class Named(Body):
    class Name(Body):
        name: str

    type: Literal["function"]
    function: Name


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(Chance):
    model: str = Field(max_length=300)
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Format | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Named | None = None
    # Accepted, and without effect: they say how OpenAI keeps, bills or speeds up a request.
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _together(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream")
        return self

    @property
    def choice(self) -> Choice:
        tools = [tool.function for tool in self.tools or []]
        if isinstance(self.tool_choice, Named):
            return choice_of(tools, "required", self.tool_choice.function.name)
        return choice_of(tools, self.tool_choice or "auto")


def add_chat(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", summary="Answer a conversation")
    async def chat_completions(body: ChatRequest, http: HTTPRequest) -> Response:
        model, choice = service.model(body.model), body.choice
        ids = prompt_ids(model, [message.turn for message in body.messages], choice.tools)
        form = body.response_format.wanted if body.response_format else None
        schema = choice.schema(model.context - len(ids)) or form
        alternatives = (body.top_logprobs or 0) if body.logprobs else None
        most = body.max_completion_tokens or body.max_tokens
        samplings = body.samplings(model, fresh_seed())
        requests = service.requests(model, [ids], samplings, most, body.stops, alternatives, schema)
        answer = _Answer(service.call(http, model, requests), choice, alternatives is not None)
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return service.stream(http, answer.call, answer.events(with_usage))
        return await service.whole(http, answer.call, answer.whole)


class _Answer:
    """The choices of one chat request, whole or in chunks."""

    def __init__(self, call: Call, choice: Choice, logprobs: bool):
        self.call, self.choice, self.logprobs = call, choice, logprobs
        self.id, self.created = new_id("chatcmpl-"), int(time.time())
        self.heard = [Heard(choice) for _ in call.tickets]

    def whole(self) -> dict[str, Any]:
        choices = []
        for index, ticket in enumerate(self.call.tickets):
            heard = self.heard[index]
            text, calls = heard.hear(ticket.sequence.text, last=True)
            message = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None,
                       "annotations": []}  # fmt: skip
            if calls:
                message["tool_calls"] = [_shown(call) for call in calls]
            known = [_logprob(self.call.model, one) for one in ticket.sequence.logprobs]
            choices.append({
                "index": index, "message": message, "finish_reason": self._reason(index),
                "logprobs": {"content": known, "refusal": None} if self.logprobs else None,
            })  # fmt: skip
        return self._frame("chat.completion", choices) | {"usage": usage(self.call)}

    async def events(self, with_usage: bool) -> AsyncIterator[bytes]:
        def chunk(index: int, delta: dict[str, Any], known: Any = None, reason: str | None = None) -> bytes:
            logprobs = {"content": known, "refusal": None} if known else None
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            frame = self._frame("chat.completion.chunk", [choice])
            return event(frame | ({"usage": None} if with_usage else {}))

        for index in range(len(self.heard)):
            yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
        async for index, token in self.call.tokens():
            heard = self.heard[index]
            text, calls = heard.hear(token.text, token.done)
            known = _token_logprob(self.call.model, token) if self.logprobs else None
            if text or known:
                yield chunk(index, {"content": text}, known)
            for number, called in enumerate(calls, len(heard.calls) - len(calls)):
                yield chunk(index, {"tool_calls": [{"index": number} | _shown(called)]})
            if token.done:
                yield chunk(index, {}, None, self._reason(index))
        if with_usage:
            yield event(self._frame("chat.completion.chunk", []) | {"usage": usage(self.call)})
        yield DONE

    def _reason(self, index: int) -> str:
        return "tool_calls" if self.heard[index].calls else self.call.reason(index)

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": self.call.model.name,
            "system_fingerprint": FINGERPRINT, "service_tier": "default", "choices": choices,
        }  # fmt: skip


def _shown(call: Called) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _token_logprob(model: "Served", token: "Token") -> list[dict[str, Any]] | None:
    if token.logprob is None or token.id in model.engine.tokenizer.stops:
        return None
    return [_entry(model, token.id, token.logprob, token.alternatives)]


def _logprob(model: "Served", found: Any) -> dict[str, Any]:
    return _entry(model, found.token, found.logprob, found.alternatives)


def _entry(model: "Served", token: int, logprob: float, others: tuple[tuple[int, float], ...]) -> dict[str, Any]:
    alternatives = [_piece(model, *other) for other in others]
    return _piece(model, token, logprob) | {"top_logprobs": alternatives}


def _piece(model: "Served", token: int, logprob: float) -> dict[str, Any]:
    tokenizer = model.engine.tokenizer
    shown = tokenizer.show([token])
    return {"token": shown, "logprob": max(logprob, -9999.0), "bytes": list(tokenizer.bytes_of(token))}
