"""The body of a request to `/v1/responses`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from minigpt.serve.asked import Body, Function, Metadata, Text, Tokens
from minigpt.serve.bounds import MOST_ALTERNATIVES, MOST_MESSAGES, MOST_TOOLS
from minigpt.serve.chat import StreamOptions
from minigpt.serve.prompts import Called, Turn
from minigpt.serve.tools import Choice, choice_of


class Said(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    id: str | None = Field(None, max_length=200)
    status: str | None = Field(None, max_length=50)
    phase: str | None = Field(None, max_length=50)


class FunctionCall(Body):
    type: Literal["function_call"]
    call_id: str = Field(max_length=200)
    name: str = Field(max_length=64)
    arguments: str = Field(max_length=100_000)
    id: str | None = Field(None, max_length=200)
    status: str | None = Field(None, max_length=50)


class FunctionResult(Body):
    type: Literal["function_call_output"]
    call_id: str = Field(max_length=200)
    output: Text
    id: str | None = Field(None, max_length=200)
    status: str | None = Field(None, max_length=50)


def _typed(item: Any) -> Any:
    if isinstance(item, dict) and "type" not in item:
        return item | {"type": "message"}
    kind = item.get("type") if isinstance(item, dict) else None
    if kind not in ("message", "function_call", "function_call_output"):
        raise ValueError(f"items of the type {str(kind)[:50]!r} are not supported")
    return item


Item = Annotated[
    Annotated[Said | FunctionCall | FunctionResult, Field(discriminator="type")], BeforeValidator(_typed)
]


class Tool(Function):
    type: Literal["function"]


class Named(Body):
    type: Literal["function"]
    name: str


class TextFormat(Body):
    """`text.format`: as `response_format`, with the schema's name beside it."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextSettings(Body):
    format: TextFormat | None = None
    verbosity: str | None = None


class ResponsesRequest(Body):
    model: str = Field(max_length=300)
    input: str | Annotated[list[Item], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Named | None = None
    text: TextSettings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # Accepted, and without effect.
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = Field(None, ge=1, le=1_000)
    metadata: Metadata | None = None
    store: bool | None = None
    reasoning: dict[str, str | None] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    include: list[str] | None = Field(None, max_length=20)
    background: Literal[False] | None = None
    previous_response_id: None = None

    @property
    def choice(self) -> Choice:
        tools = [Function(**tool.model_dump(exclude={"type"})) for tool in self.tools or []]
        if isinstance(self.tool_choice, Named):
            return choice_of(tools, "required", self.tool_choice.name)
        return choice_of(tools, self.tool_choice or "auto")

    @property
    def schema(self) -> dict[str, Any] | None:
        wanted = self.text.format if self.text else None
        if wanted is None or wanted.type == "text":
            return None
        return wanted.schema_ or {"type": "object"}

    @property
    def turns(self) -> list[Turn]:
        turns = [Turn("system", self.instructions)] if self.instructions else []
        for item in [Said(role="user", content=self.input)] if isinstance(self.input, str) else self.input:
            if isinstance(item, Said):
                turns.append(Turn("system" if item.role == "developer" else item.role, item.content))
            elif isinstance(item, FunctionCall):
                turns.append(Turn("assistant", "", (Called(item.call_id, item.name, item.arguments),)))
            else:
                turns.append(Turn("tool", item.output))
        return turns
