"""What a row of any supported file becomes: a text, a conversation or a preference pair."""

from dataclasses import dataclass

from minigpt.text.messages import Message


@dataclass(frozen=True)
class Text:
    """A document for pretraining."""

    text: str


@dataclass(frozen=True)
class Conversation:
    """Messages for SFT: an optional system message first, then user and assistant in turn, assistant last."""

    messages: list[Message]


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt for DPO: `prompt + chosen` is preferred to `prompt + rejected`."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


Parsed = Text | Conversation | Preference
