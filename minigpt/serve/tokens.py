"""`/tokenize` and `/detokenize`: what a model's tokenizer does with a text, for people and for the chat page."""

from typing import Annotated

from fastapi import FastAPI
from pydantic import Field, model_validator
from starlette.responses import Response

from minigpt.errors import MiniGPTError
from minigpt.serve.asked import Body
from minigpt.serve.bounds import MOST_MESSAGES
from minigpt.serve.chat import Message
from minigpt.serve.prompts import prompt_ids
from minigpt.serve.refusals import invalid
from minigpt.serve.service import JSON, Service

MOST_IDS = MOST_CHARACTERS = 200_000


class TokenizeRequest(Body):
    """A text (`prompt`, or llama-server's `content`), or messages as a chat has them."""

    model: str = Field(max_length=300)
    prompt: str | None = Field(None, max_length=MOST_CHARACTERS)
    content: str | None = Field(None, max_length=MOST_CHARACTERS)
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)] | None = None

    @model_validator(mode="after")
    def _one(self) -> "TokenizeRequest":
        if sum(value is not None for value in (self.prompt, self.content, self.messages)) != 1:
            raise ValueError("give one of prompt, content and messages")
        return self


class DetokenizeRequest(Body):
    model: str = Field(max_length=300)
    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(max_length=MOST_IDS)


def add_tokens(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize", summary="The tokens of a text")
    async def tokenize(body: TokenizeRequest) -> Response:
        model = service.model(body.model)
        tokenizer = model.engine.tokenizer
        if body.messages is not None:
            ids = prompt_ids(model, [message.turn for message in body.messages])
        else:
            text = body.prompt if body.prompt is not None else body.content
            try:
                ids = tokenizer.encode(text)
            except MiniGPTError as error:
                raise invalid(str(error), "prompt") from None
        pieces = [tokenizer.show([i]) for i in ids]
        return JSON({"tokens": ids, "pieces": pieces, "count": len(ids), "max_model_len": model.context})

    @app.post("/detokenize", summary="The text of tokens")
    async def detokenize(body: DetokenizeRequest) -> Response:
        model = service.model(body.model)
        size = model.engine.tokenizer.vocab_size
        if body.tokens and max(body.tokens) >= size:
            raise invalid(f"{max(body.tokens)} is no token of {model.name}, which has {size}.", "tokens")
        return JSON({"prompt": model.engine.tokenizer.decode(body.tokens)})
