"""`/v1/messages` and its token counter: Anthropic's chat."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BeforeValidator, Field
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from minigpt.serve.asked import Body, Function, Metadata, Stop, Text, Tokens, sampling
from minigpt.serve.bounds import MOST_MESSAGES, MOST_STOPS, MOST_TOKENS, MOST_TOOLS
from minigpt.serve.calls import Call
from minigpt.serve.prompts import Called, Turn, prompt_ids
from minigpt.serve.refusals import Refused
from minigpt.serve.service import JSON, Service, fresh_seed, new_id
from minigpt.serve.streams import event
from minigpt.serve.tools import Choice, Heard, choice_of

CacheControl = dict[str, Any]


class TextBlock(Body):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: list[Any] | None = None


class ToolUse(Body):
    type: Literal["tool_use"]
    id: str = Field(max_length=200)
    name: str = Field(max_length=64)
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: dict[str, Any] | None = None


class ToolResult(Body):
    type: Literal["tool_result"]
    tool_use_id: str = Field(max_length=200)
    content: Text | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


def _known(block: Any) -> Any:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind not in ("text", "tool_use", "tool_result"):
        raise ValueError(f"blocks of the type {str(kind)[:50]!r} are not supported, text is")
    return block


Block = Annotated[TextBlock | ToolUse | ToolResult, Field(discriminator="type")]
Blocks = list[Annotated[Block, BeforeValidator(_known)]]


class Message(Body):
    role: Literal["user", "assistant", "system"]
    content: str | Blocks

    @property
    def turns(self) -> list[Turn]:
        """Results of tools are turns of their own."""
        if isinstance(self.content, str):
            return [Turn(self.role, self.content)]
        texts = "".join(block.text for block in self.content if isinstance(block, TextBlock))
        calls = tuple(
            Called(block.id, block.name, json.dumps(block.input, ensure_ascii=False))
            for block in self.content if isinstance(block, ToolUse)
        )  # fmt: skip
        results = [Turn("tool", block.content or "") for block in self.content if isinstance(block, ToolResult)]
        return results + ([Turn(self.role, texts, calls)] if texts or calls or not results else [])


class Tool(Body):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = Field(None, max_length=10_000)
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = None
    strict: bool | None = None

    @property
    def function(self) -> Function:
        return Function(name=self.name, description=self.description, parameters=self.input_schema)


class ToolChoice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Counted(Body):
    model: str = Field(max_length=300)
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    system: Text | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None

    @property
    def choice(self) -> Choice:
        tools, wanted = [tool.function for tool in self.tools or []], self.tool_choice
        return choice_of(tools, wanted.type if wanted else "auto", wanted.name if wanted else None)

    @property
    def turns(self) -> list[Turn]:
        opening = [Turn("system", self.system)] if self.system else []
        return opening + [turn for message in self.messages for turn in message.turns]


class MessagesRequest(Counted):
    max_tokens: Tokens
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=MOST_TOKENS)
    stop_sequences: Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None


def add_messages(app: FastAPI, service: Service) -> None:
    @app.post("/v1/messages", summary="Answer a conversation (Anthropic)")
    async def messages(body: MessagesRequest, http: HTTPRequest) -> Response:
        model, choice = service.model(body.model), body.choice
        ids = prompt_ids(model, body.turns, choice.tools)
        how = sampling(model, fresh_seed(), temperature=body.temperature, top_p=body.top_p, top_k=body.top_k)
        stops = tuple(body.stop_sequences or ())
        schema = choice.schema(model.context - len(ids))
        requests = service.requests(model, [ids], [how], body.max_tokens, stops, schema=schema)
        call = service.call(http, model, requests)
        answer = _Answer(call, choice)
        if body.stream:
            return service.stream(http, call, answer.events(), _failure)
        return await service.whole(http, call, answer.whole)

    @app.post("/v1/messages/count_tokens", summary="Count the tokens of a conversation (Anthropic)")
    async def count_tokens(body: Counted) -> Response:
        model = service.model(body.model)
        return JSON({"input_tokens": len(prompt_ids(model, body.turns, body.choice.tools))})


def _failure(refusal: Refused) -> bytes:
    return event(refusal.body("/v1/messages"), "error")


class _Answer:
    """One message, whole or as events."""

    def __init__(self, call: Call, choice: Choice):
        self.call, self.heard, self.id = call, Heard(choice), new_id("msg_")

    def whole(self) -> dict[str, Any]:
        text, calls = self.heard.hear(self.call.tickets[0].sequence.text, last=True)
        content: list[dict[str, Any]] = [{"type": "text", "text": text, "citations": None}] if text else []
        content += [_used(call) | {"input": json.loads(call.arguments)} for call in calls]
        content = content or [{"type": "text", "text": "", "citations": None}]
        return self._frame(content) | self._end() | {"usage": self._usage()}

    async def events(self) -> AsyncIterator[bytes]:
        def named(kind: str, **more: Any) -> bytes:
            return event({"type": kind, **more}, kind)

        start = self._frame([]) | {"stop_reason": None, "stop_sequence": None, "stop_details": None}
        yield named("message_start", message=start | {"usage": self._usage() | {"output_tokens": 0}})
        number, open_text = 0, False
        async for _, token in self.call.tokens():
            text, calls = self.heard.hear(token.text, token.done)
            empty = token.done and not text and not number and not self.heard.calls  # it has a block all the same
            if (text or empty) and not open_text:
                block = {"type": "text", "text": "", "citations": None}
                yield named("content_block_start", index=number, content_block=block)
                open_text = True
            if text or empty:
                yield named("content_block_delta", index=number, delta={"type": "text_delta", "text": text})
            for call in calls:
                if open_text:
                    yield named("content_block_stop", index=number)
                    number, open_text = number + 1, False
                yield named("content_block_start", index=number, content_block=_used(call))
                delta = {"type": "input_json_delta", "partial_json": call.arguments}
                yield named("content_block_delta", index=number, delta=delta)
                yield named("content_block_stop", index=number)
                number += 1
        if open_text:
            yield named("content_block_stop", index=number)
        yield named("message_delta", delta=self._end(), usage=self._usage())
        yield named("message_stop")

    def _frame(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.call.model.name,
                "content": content, "container": None}  # fmt: skip

    def _end(self) -> dict[str, Any]:
        stop = self.call.stopped_by(0)
        reason = "end_turn" if self.call.reason(0) == "stop" else "max_tokens"
        reason = "tool_use" if self.heard.calls else "stop_sequence" if stop is not None else reason
        return {"stop_reason": reason, "stop_sequence": stop, "stop_details": None}

    def _usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self.call.prompt_tokens - self.call.cached_tokens,
            "output_tokens": self.call.answer_tokens, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.call.cached_tokens, "cache_creation": None, "inference_geo": None,
            "output_tokens_details": None, "server_tool_use": None, "service_tier": "standard",
        }  # fmt: skip


def _used(call: Called) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id.replace("call_", "toolu_"), "name": call.name, "input": {},
            "caller": {"type": "direct"}}  # fmt: skip
