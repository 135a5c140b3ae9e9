"""`/v1/responses`: OpenAI's newer chat, without memory: the client sends the whole conversation each time."""

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from minigpt.serve.asked import sampling
from minigpt.serve.calls import Call
from minigpt.serve.prompts import Called, prompt_ids
from minigpt.serve.refusals import Refused
from minigpt.serve.responses_request import Named, ResponsesRequest
from minigpt.serve.service import Service, fresh_seed, new_id
from minigpt.serve.streams import event
from minigpt.serve.tools import Choice, Heard


def add_responses(app: FastAPI, service: Service) -> None:
    @app.post("/v1/responses", summary="Answer a conversation (Responses)")
    async def responses(body: ResponsesRequest, http: HTTPRequest) -> Response:
        model, choice = service.model(body.model), body.choice
        ids = prompt_ids(model, body.turns, choice.tools)
        given = {name: getattr(body, name) for name in ("temperature", "top_p", "presence_penalty",
                                                        "frequency_penalty")}  # fmt: skip
        how, schema = sampling(model, fresh_seed(), **given), choice.schema(model.context - len(ids)) or body.schema
        call = service.call(http, model, service.requests(model, [ids], [how], body.max_output_tokens, schema=schema))
        answer = _Answer(call, choice, body)
        if body.stream:
            return service.stream(http, call, answer.events(), answer.failed)
        return await service.whole(http, call, answer.whole)


class _Answer:
    """A response: its resource, whole or in events that build it up."""

    def __init__(self, call: Call, choice: Choice, body: ResponsesRequest):
        self.call, self.heard, self.body = call, Heard(choice), body
        self.id, self.message, self.created = new_id("resp_"), new_id("msg_"), int(time.time())
        self.output: list[dict[str, Any]] = []
        self.number = -1

    def whole(self) -> dict[str, Any]:
        text, calls = self.heard.hear(self.call.tickets[0].sequence.text, last=True)
        if text or not calls:
            self.output.append(self._said(text))
        self.output += [_used(call) for call in calls]
        return self._ended()

    async def events(self) -> AsyncIterator[bytes]:
        yield self._event("response.created", response=self._resource("in_progress"))
        yield self._event("response.in_progress", response=self._resource("in_progress"))
        text, at = "", -1  # what was said, and the message's place in the output
        async for _, token in self.call.tokens():
            piece, calls = self.heard.hear(token.text, token.done)
            if at < 0 and (piece or (token.done and not self.heard.calls)):
                at = len(self.output)
                self.output.append(self._said("") | {"status": "in_progress"})
                for part in self._opened(at):
                    yield part
            if piece:
                text += piece
                more = {"item_id": self.message, "output_index": at, "content_index": 0, "logprobs": []}
                yield self._event("response.output_text.delta", delta=piece, **more)
            for call in calls:
                for part in self._called(call):
                    yield part
        if at >= 0:
            for part in self._closed(at, text):
                yield part
        final = self._ended()
        yield self._event(f"response.{final['status']}", response=final)

    def failed(self, refusal: Refused) -> bytes:
        error = {"code": "server_error", "message": refusal.message}
        return self._event("response.failed", response=self._resource("failed") | {"error": error})

    # ---- events

    def _event(self, kind: str, **more: Any) -> bytes:
        self.number += 1
        return event({"type": kind, "sequence_number": self.number, **more}, kind)

    def _opened(self, at: int) -> list[bytes]:
        item = self.output[at] | {"content": []}
        more = {"item_id": self.message, "output_index": at, "content_index": 0}
        return [
            self._event("response.output_item.added", output_index=at, item=item),
            self._event("response.content_part.added", part=_part(""), **more),
        ]

    def _closed(self, at: int, text: str) -> list[bytes]:
        self.output[at] = self._said(text)
        more = {"item_id": self.message, "output_index": at, "content_index": 0}
        return [
            self._event("response.output_text.done", text=text, logprobs=[], **more),
            self._event("response.content_part.done", part=_part(text), **more),
            self._event("response.output_item.done", output_index=at, item=self.output[at]),
        ]

    def _called(self, call: Called) -> list[bytes]:
        item, at = _used(call), len(self.output)
        self.output.append(item)
        more = {"item_id": item["id"], "output_index": at}
        opening = item | {"arguments": "", "status": "in_progress"}
        return [
            self._event("response.output_item.added", output_index=at, item=opening),
            self._event("response.function_call_arguments.delta", delta=call.arguments, **more),
            self._event("response.function_call_arguments.done", arguments=call.arguments, name=call.name, **more),
            self._event("response.output_item.done", output_index=at, item=item),
        ]

    # ---- the resource

    def _said(self, text: str) -> dict[str, Any]:
        return {"type": "message", "id": self.message, "status": "completed", "role": "assistant",
                "content": [_part(text)]}  # fmt: skip

    def _ended(self) -> dict[str, Any]:
        cut = self.call.reason(0) == "length" and not self.heard.calls
        found = self._resource("incomplete" if cut else "completed")
        prompt, answer = self.call.prompt_tokens, self.call.answer_tokens
        found["usage"] = {
            "input_tokens": prompt, "output_tokens": answer, "total_tokens": prompt + answer,
            "input_tokens_details": {"cached_tokens": self.call.cached_tokens},
            "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        return found

    def _resource(self, status: str) -> dict[str, Any]:
        body = self.body
        return {
            "id": self.id, "object": "response", "created_at": self.created, "status": status,
            "completed_at": int(time.time()) if status in ("completed", "incomplete") else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "error": None, "model": self.call.model.name, "previous_response_id": None,
            "instructions": body.instructions, "output": list(self.output),
            "tools": [tool.model_dump() for tool in body.tools or []],
            "tool_choice": body.tool_choice.model_dump() if isinstance(body.tool_choice, Named)
            else body.tool_choice or "auto",
            "truncation": body.truncation or "disabled", "parallel_tool_calls": body.parallel_tool_calls is not False,
            "text": {"format": _format(body)}, "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p, "presence_penalty": body.presence_penalty or 0,
            "frequency_penalty": body.frequency_penalty or 0, "top_logprobs": body.top_logprobs or 0,
            "reasoning": {"effort": None, "summary": None}, "usage": None,
            "max_output_tokens": body.max_output_tokens, "max_tool_calls": body.max_tool_calls, "store": False,
            "background": False, "service_tier": "default", "metadata": body.metadata or {},
            "safety_identifier": body.safety_identifier, "prompt_cache_key": body.prompt_cache_key, "user": body.user,
        }  # fmt: skip


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _used(call: Called) -> dict[str, Any]:
    return {"type": "function_call", "id": call.id.replace("call_", "fc_"), "call_id": call.id, "name": call.name,
            "arguments": call.arguments, "status": "completed"}  # fmt: skip


def _format(body: ResponsesRequest) -> dict[str, Any]:
    wanted = body.text.format if body.text else None
    return wanted.model_dump(by_alias=True, exclude_none=True) if wanted else {"type": "text"}
