"""The common calls of the clients openai and anthropic, in the environment where these are installed.

    python scripts/serving/their_clients.py http://127.0.0.1:8322 MODEL

Prints a line for each call and exits with 1 when one has failed.
"""

import sys
from collections.abc import Callable

import anthropic
import openai

QUESTION = [{"role": "user", "content": "What is 3 plus 1?"}]
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["colour"],
    "properties": {"colour": {"enum": ["red", "blue"]}},
}  # fmt: skip
WEATHER = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
           "additionalProperties": False}  # fmt: skip


def main(url: str, model: str) -> int:
    calls = openai_calls(openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), model)
    calls |= anthropic_calls(anthropic.Anthropic(base_url=url, api_key="none", max_retries=0), model)
    failed = 0
    for name, call in calls.items():
        try:
            found = call()
            fine = bool(found)
        except Exception as error:  # whatever a client raises, the call has failed
            found, fine = f"{type(error).__name__}: {error}", False
        failed += not fine
        print(f"  {'ok    ' if fine else 'FAILED'} {name:<34} {str(found)[:70]!r}")
    versions = f"openai {openai.__version__}, anthropic {anthropic.__version__}"
    print(f"{len(calls) - failed} of {len(calls)} calls: {versions}")
    return int(failed > 0)


def openai_calls(client: openai.OpenAI, model: str) -> dict[str, Callable]:
    chat, tool = client.chat.completions.create, {"name": "weather", "parameters": WEATHER}

    def streamed() -> str:
        options = {"include_usage": True}
        chunks = list(chat(model=model, messages=QUESTION, max_tokens=8, stream=True, stream_options=options, seed=1))
        assert chunks[-1].usage.completion_tokens >= 0 and chunks[-2].choices[0].finish_reason
        return "streamed " + "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    def refused(kind: type, **more: object) -> str:
        try:
            chat(**{"model": model, "messages": QUESTION} | more)
        except kind as error:
            return f"{kind.__name__} {error.code}"
        return ""

    def tools(stream: bool) -> str:
        given = {"model": model, "messages": QUESTION, "tools": [{"type": "function", "function": tool}],
                 "tool_choice": "required", "max_tokens": 100}  # fmt: skip
        if not stream:
            answer = chat(**given).choices[0]
            assert answer.finish_reason == "tool_calls"
            return answer.message.tool_calls[0].function.arguments
        deltas = [c.choices[0].delta.tool_calls for c in chat(**given, stream=True) if c.choices]
        return next(delta[0].function.arguments for delta in deltas if delta)

    def tool_result() -> str:
        call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        turns = [*QUESTION, {"role": "assistant", "tool_calls": [call]},
                 {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]  # fmt: skip
        return chat(model=model, messages=turns, max_tokens=8).choices[0].finish_reason

    def schema() -> str:
        form = {"type": "json_schema", "json_schema": {"name": "c", "schema": SCHEMA}}
        return chat(model=model, messages=QUESTION, max_tokens=40, response_format=form).choices[0].message.content

    def responses() -> str:
        with client.responses.stream(model=model, input="Hi", max_output_tokens=8) as stream:
            kinds = [event.type for event in stream]
        assert kinds[-1] in ("response.completed", "response.incomplete")
        return " ".join(dict.fromkeys(kinds))

    def logprobs() -> str:
        answer = chat(model=model, messages=QUESTION, max_tokens=4, logprobs=True, top_logprobs=3).choices[0]
        return str([len(one.top_logprobs) for one in answer.logprobs.content] or answer.finish_reason)

    return {
        "openai models": lambda: [one.id for one in client.models.list()],
        "openai one model": lambda: client.models.retrieve(model).id,
        "openai chat": lambda: chat(model=model, messages=QUESTION, max_tokens=8).id,
        "openai chat, two answers": lambda: len(chat(model=model, messages=QUESTION, max_tokens=8, n=2).choices) == 2,
        "openai chat, stream": streamed, "openai chat, log-probabilities": logprobs,
        "openai chat, JSON schema": schema, "openai chat, tool": lambda: tools(False),
        "openai chat, tool in a stream": lambda: tools(True), "openai chat, a tool's result": tool_result,
        "openai completions": lambda: client.completions.create(model=model, prompt="The cat", max_tokens=4).id,
        "openai completions, stream": lambda: list(
            client.completions.create(model=model, prompt=["A", "B"], max_tokens=4, stream=True)
        ),
        "openai responses": lambda: client.responses.create(model=model, input="Hi", max_output_tokens=8).id,
        "openai responses, stream": responses,
        "openai unknown model": lambda: refused(openai.NotFoundError, model="none"),
        "openai unknown field": lambda: refused(openai.BadRequestError, extra_body={"nonsense": 1}),
        "openai too long": lambda: refused(openai.BadRequestError, messages=[QUESTION[0] | {"content": "a b " * 9000}]),
    }  # fmt: skip


def anthropic_calls(client: anthropic.Anthropic, model: str) -> dict[str, Callable]:
    given = {"model": model, "max_tokens": 8, "messages": QUESTION}
    tool = {"name": "weather", "input_schema": WEATHER}

    def streamed() -> str:
        with client.messages.stream(**given, system="Be brief.") as stream:
            text = "".join(stream.text_stream)
            assert stream.get_final_message().stop_reason
        return f"streamed {text}"

    def tools() -> dict:
        wanted = {"tools": [tool], "tool_choice": {"type": "any"}, "max_tokens": 100}
        answer = client.messages.create(**given | wanted)
        assert answer.stop_reason == "tool_use"
        return answer.content[-1].input

    def refused() -> str:
        try:
            client.messages.create(**given | {"model": "none"})
        except anthropic.NotFoundError as error:
            return error.body["error"]["type"]
        return ""

    return {
        "anthropic messages": lambda: client.messages.create(**given).id,
        "anthropic messages, stream": streamed, "anthropic messages, tool": tools,
        "anthropic count tokens": lambda: client.messages.count_tokens(model=model, messages=QUESTION).input_tokens,
        "anthropic unknown model": refused,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
