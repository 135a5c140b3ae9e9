"""What the bodies of several endpoints have in common: texts, bounded numbers, and the way from them to the engine.

Bodies are strict: a number in quotes is no number, NaN and infinity are none, and an unknown field is refused.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from minigpt.generate.sampling import Sampling, with_seeds
from minigpt.serve.bounds import (
    MOST_BIASES,
    MOST_CHOICES,
    MOST_STOPS,
    MOST_TOKENS,
)
from minigpt.serve.refusals import invalid
from minigpt.serve.worker import Served


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


PARTS = ("text", "input_text", "output_text")  # kinds of parts that are text


def _joined(content: Any) -> Any:
    """A text of the parts that clients may send in its place."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in PARTS:
            raise ValueError(f"parts of the type {str(kind)[:50]!r} are not supported, text is")
        if not isinstance(part.get("text"), str):
            raise ValueError("a part has no text")
        if extra := set(part) - {"type", "text", "annotations", "logprobs", "cache_control", "citations"}:
            raise ValueError(f"unknown field {sorted(extra)[0][:50]!r} of a part")
        texts.append(part["text"])
    return "".join(texts)


_PART = {
    "type": "object", "required": ["type", "text"],
    "properties": {"type": {"enum": list(PARTS)}, "text": {"type": "string"}},
}  # fmt: skip
Text = Annotated[
    str, BeforeValidator(_joined), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]})
]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Metadata = Annotated[dict[str, Any], Field(max_length=64)]  # kept by the client, ignored here


class Chance(Body):
    """How the next token is chosen: what both OpenAI endpoints for text have, and what vLLM adds to it."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=MOST_BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    top_k: int | None = Field(None, ge=-1, le=MOST_TOKENS)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    ignore_eos: bool | None = None  # go on to the longest answer: for measurements
    user: str | None = Field(None, max_length=1_000)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def samplings(self, model: Served, fresh: int) -> list[Sampling]:
        """One for each of `n` answers, with seeds that follow each other; `fresh` is the first where none is given."""
        first = fresh if self.seed is None else self.seed % 2**62
        one = sampling(model, first, **{name: getattr(self, name) for name in CHANCES})
        if self.ignore_eos:
            never = tuple((token, -1000.0) for token in model.engine.tokenizer.stops)
            one = replace(one, logit_bias=one.logit_bias + never)
        return with_seeds(one, self.n or 1)


CHANCES = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "logit_bias",
)  # fmt: skip


def sampling(model: Served, seed: int, **given: Any) -> Sampling:
    """The engine's settings for what was given; what was not is as OpenAI's and Anthropic's clients expect it.

    Raises Refused for a bias on a token that the model does not have.
    """
    known: dict[str, Any] = {"temperature": 1.0} | {key: value for key, value in given.items() if value is not None}
    known["top_p"] = max(known.get("top_p", 1.0), 1e-9)  # 0 leaves the likeliest token
    known["top_k"] = max(known.get("top_k", 0), 0)  # -1 is vLLM's word for all
    known["logit_bias"] = tuple(_bias(model, *item) for item in known.get("logit_bias", {}).items())
    return Sampling(**known, seed=seed)


def _bias(model: Served, token: str, bias: float) -> tuple[int, float]:
    size = model.engine.tokenizer.vocab_size
    if not (token.isascii() and token.isdigit() and len(token) < 10 and int(token) < size):
        raise invalid(f"logit_bias: {token[:50]!r} is no token of {model.name}, which has {size}.", "logit_bias")
    return int(token), bias


class Function(Body):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = Field(None, max_length=10_000)
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Format(Body):
    """`response_format`: text, any JSON object, or JSON of a schema."""

    class Schema(Body):
        name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
        description: str | None = None
        schema_: dict[str, Any] = Field(alias="schema")
        strict: bool | None = None

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Format":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema")
        return self

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The schema that the answer must have."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.schema_
