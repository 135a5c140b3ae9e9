"""Chat templates that came with a model: foreign Jinja programs, run in Jinja's sandbox and nowhere else."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from minigpt.errors import DataError, MiniGPTError
from minigpt.text.messages import Message

# For models that were never taught a conversation. The contents lose the white space around them, so that a token
# never reaches over the border between an answer and what stands before it.
PLAIN_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- message['role'] | capitalize + ':\\n' + message['content'] | trim -}}"
    "{{- (eos_token if message['role'] == 'assistant' else '') + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:\\n' -}}{%- endif -%}"
)

Render = Callable[..., str]  # (messages, whether an assistant's turn is opened, tools) -> text


def compiled(source: str, names: dict[str, str]) -> Render:
    """The function (messages, open an assistant's turn, tools) -> text of a template; `names` are its other variables.

    Raises MiniGPTError when the template is no valid one; the function raises DataError for messages it refuses.
    """
    try:
        import jinja2
    except ImportError:
        message = "Chat templates of imported models need the package jinja2."
        raise MiniGPTError(message, "Install it: pip install 'minigpt[exchange]'.") from None
    try:
        template = _environment().from_string(source)
    except jinja2.TemplateError as error:
        raise MiniGPTError(f"The model's chat template is no valid one: {error}.") from None

    def render(messages: list[Message], open_turn: bool, tools: list[dict[str, Any]] | None = None) -> str:
        try:
            given = {"messages": messages, "add_generation_prompt": open_turn, "tools": tools, "documents": None}
            return template.render(given | names)
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            message = f"The model's chat template refuses a conversation: {error}".rstrip(".")
            raise DataError(f"{message}.", "Bring it into the form that this model knows.") from None

    return render


def _environment() -> Any:
    """The settings and functions that Hugging Face's templates are written for."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what an assistant says; the text inside is rendered as it is."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, **settings: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False} | settings)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment
