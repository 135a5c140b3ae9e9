"""What all endpoints share: the models, who asks, the settings, and answers whole or as a stream."""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from minigpt import __version__
from minigpt.errors import MiniGPTError
from minigpt.generate.request import Request
from minigpt.generate.sampling import Sampling
from minigpt.serve.bounds import MOST_ROWS
from minigpt.serve.calls import Call, unless_gone
from minigpt.serve.grammar import grammar_of
from minigpt.serve.refusals import Refused, invalid, unknown_model
from minigpt.serve.streams import EventStream, openai_failure
from minigpt.serve.worker import Served, Worker

FINGERPRINT = f"minigpt-{__version__}"


@dataclass
class Service:
    """The worker, and how its endpoints use it."""

    worker: Worker

    def model(self, name: str) -> Served:
        """Raises Refused for a name that no model has."""
        if name not in self.worker.models:
            raise unknown_model(name, list(self.worker.models))
        return self.worker.models[name]

    def requests(
        self, model: Served, prompts: Sequence[list[int]], samplings: Sequence[Sampling], max_tokens: int | None,
        stops: tuple[str, ...] = (), logprobs: int | None = None, schema: dict[str, Any] | None = None,
    ) -> list[Request]:  # fmt: skip
        """One request to the engine for each prompt and setting. Raises Refused for a schema that is none."""
        if len(prompts) * len(samplings) > MOST_ROWS:
            raise invalid(f"{len(prompts)} prompts times {len(samplings)} answers are more than {MOST_ROWS}.", "n")
        try:
            grammar = None if schema is None else grammar_of(model.engine.tokenizer, schema)
        except MiniGPTError as error:
            raise invalid(str(error), "response_format", "invalid_schema") from None
        most = model.context if max_tokens is None else min(max_tokens, model.context)
        return [
            Request(prompt, sampling, most, stops, logprobs, grammar) for prompt in prompts for sampling in samplings
        ]

    def call(self, http: HTTPRequest, model: Served, requests: Sequence[Request]) -> Call:
        """Begin to answer. Raises Refused when there is no room."""
        notes = http.state.notes
        call = Call(self.worker, model, requests, http.state.tenant).begin()
        notes |= {"model": model.name, "sequences": len(requests), "prompt_tokens": call.prompt_tokens}
        return call

    async def whole(self, http: HTTPRequest, call: Call, answer: Callable[[], dict[str, Any]]) -> Response:
        """The answer when it is finished; nothing when the client leaves before."""
        try:
            await unless_gone(http, call.finished())
            return JSON(answer())
        finally:
            call.close()
            note_end(http, call)

    def stream(
        self, http: HTTPRequest, call: Call, events: AsyncIterator[bytes],
        failed: Callable[[Refused], bytes] = openai_failure,
    ) -> Response:  # fmt: skip
        return EventStream(call, events, failed, lambda: note_end(http, call))


def note_end(http: HTTPRequest, call: Call) -> None:
    """For the access log: what the answer was."""
    reasons = [ticket.sequence.reason for ticket in call.tickets if ticket.sequence is not None]
    http.state.notes |= {"completion_tokens": call.answer_tokens, "reasons": reasons}


def new_id(kind: str) -> str:
    return f"{kind}{secrets.token_hex(14)}"


def fresh_seed() -> int:
    return secrets.randbelow(2**48)


def usage(call: Call) -> dict[str, Any]:
    """As OpenAI counts."""
    prompt, answer = call.prompt_tokens, call.answer_tokens
    return {
        "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": call.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip


class JSON(Response):
    """A JSON answer; text that is no Unicode cannot break it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        import json

        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8", "replace")
