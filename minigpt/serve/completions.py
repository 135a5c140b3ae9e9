"""`/v1/completions`: OpenAI's older endpoint, which continues a text. For base models it is the natural one."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from minigpt.serve.asked import Chance, Format, Tokens
from minigpt.serve.bounds import MOST_ALTERNATIVES, MOST_PROMPTS
from minigpt.serve.calls import Call
from minigpt.serve.chat import StreamOptions
from minigpt.serve.prompts import check_length, text_ids
from minigpt.serve.refusals import invalid
from minigpt.serve.service import FINGERPRINT, Service, fresh_seed, new_id, usage
from minigpt.serve.streams import DONE, event

if TYPE_CHECKING:
    from minigpt.serve.worker import Served

Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class CompletionRequest(Chance):
    model: str = Field(max_length=300)
    prompt: (
        str | Ids | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
    )  # fmt: skip
    max_tokens: Tokens | None = 16
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Format | None = None
    best_of: int | None = Field(None, ge=1, le=1)
    suffix: None = None

    @property
    def prompts(self) -> list[Any]:
        many = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return self.prompt if many else [self.prompt]


def add_completions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", summary="Continue a text")
    async def completions(body: CompletionRequest, http: HTTPRequest) -> Response:
        model = service.model(body.model)
        prompts = [_ids(model, prompt) for prompt in body.prompts]
        schema = body.response_format.wanted if body.response_format else None
        samplings = body.samplings(model, fresh_seed())
        requests = service.requests(model, prompts, samplings, body.max_tokens, body.stops, body.logprobs, schema)
        answer = _Answer(service.call(http, model, requests), _echoes(model, body, prompts, len(samplings)))
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return service.stream(http, answer.call, answer.events(with_usage))
        return await service.whole(http, answer.call, answer.whole)


def _ids(model: "Served", prompt: str | list[int]) -> list[int]:
    """Raises Refused for ids that the model does not have, or too many of them."""
    if isinstance(prompt, str):
        return text_ids(model, prompt)
    size = model.engine.tokenizer.vocab_size
    if max(prompt) >= size:
        raise invalid(f"prompt: {max(prompt)} is no token of {model.name}, which has {size}.", "prompt")
    check_length(model, prompt, "prompt")
    return prompt


def _echoes(model: "Served", body: CompletionRequest, prompts: Sequence[list[int]], each: int) -> list[str]:
    """What each answer begins with: its prompt, where that is wanted."""
    if not body.echo:
        return [""] * (len(prompts) * each)
    texts = [p if isinstance(p, str) else model.engine.tokenizer.decode(p) for p in body.prompts]
    return [text for text in texts for _ in range(each)]


class _Answer:
    """The choices of one request, whole or in chunks."""

    def __init__(self, call: Call, echoes: list[str]):
        self.call, self.echoes = call, echoes
        self.id, self.created = new_id("cmpl-"), int(time.time())
        self.offsets = [len(echo) for echo in echoes]  # of each answer's next token in its text

    def whole(self) -> dict[str, Any]:
        choices = []
        for index, ticket in enumerate(self.call.tickets):
            known = [(one.token, one.logprob, one.alternatives) for one in ticket.sequence.logprobs]
            choices.append({
                "index": index, "text": self.echoes[index] + ticket.sequence.text,
                "logprobs": self._logprobs(index, known), "finish_reason": self.call.reason(index),
            })  # fmt: skip
        return self._frame(choices) | {"usage": usage(self.call)}

    async def events(self, with_usage: bool) -> AsyncIterator[bytes]:
        def chunk(index: int, text: str, known: list = (), reason: str | None = None) -> bytes:
            logprobs = self._logprobs(index, known) if known else None
            frame = self._frame([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}])
            return event(frame | ({"usage": None} if with_usage else {}))

        for index, echo in enumerate(self.echoes):
            if echo:
                yield chunk(index, echo)
        stops = self.call.model.engine.tokenizer.stops
        async for index, token in self.call.tokens():
            counts = token.logprob is not None and token.id not in stops
            known = [(token.id, token.logprob, token.alternatives)] if counts else []
            if token.text or known or token.done:
                yield chunk(index, token.text, known, self.call.reason(index) if token.done else None)
        if with_usage:
            yield event(self._frame([]) | {"usage": usage(self.call)})
        yield DONE

    def _logprobs(self, index: int, known: list[tuple[int, float, tuple]]) -> dict[str, Any] | None:
        """OpenAI's four lists: pieces, their log-probabilities, the likeliest instead of each, where each begins."""
        if self.call.requests[index].logprobs is None:
            return None
        show, offsets = self.call.model.engine.tokenizer.show, []
        for token, _, _ in known:
            offsets.append(self.offsets[index])
            self.offsets[index] += len(show([token]))
        return {
            "tokens": [show([token]) for token, _, _ in known],
            "token_logprobs": [max(value, -9999.0) for _, value, _ in known],
            "top_logprobs": [{show([i]): max(value, -9999.0) for i, value in others} for _, _, others in known],
            "text_offset": offsets,
        }

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.call.model.name,
            "system_fingerprint": FINGERPRINT, "choices": choices,
        }  # fmt: skip
