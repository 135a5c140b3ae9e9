"""What a row of any supported file becomes: a text, a conversation, a pair, a labelled answer or labelled steps."""

from dataclasses import dataclass, field
from typing import Any

from minigpt.text.messages import Message


def _written(messages: list[Message]) -> list[str]:
    """Role and content of each message: all that a chat template writes in ordinary tokens."""
    return [written for message in messages for written in (message["role"], message["content"])]


@dataclass(frozen=True)
class Text:
    """A document for pretraining."""

    text: str

    def texts(self) -> list[str]:
        """All that is written in it."""
        return [self.text]


@dataclass(frozen=True)
class Conversation:
    """Messages for SFT: an optional system message first, then user and assistant in turn, assistant last."""

    messages: list[Message]
    others: dict[str, Any] = field(default_factory=dict, repr=False)  # of the row, for reward functions

    def texts(self) -> list[str]:
        """Who says what in each message."""
        return _written(self.messages)


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt: `prompt + chosen` is preferred to `prompt + rejected`, by `margin` if it is known."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    margin: float | None = field(default=None, repr=False)  # no part of the text that decides which rows are held out

    def texts(self) -> list[str]:
        """Who says what in each message of the prompt and of both answers."""
        return _written(self.prompt + self.chosen + self.rejected)


@dataclass(frozen=True)
class Steps:
    """An answer in steps, each of which is right or wrong, for a process reward model."""

    prompt: list[Message]
    steps: list[str]  # a line each
    labels: list[bool]

    def texts(self) -> list[str]:
        """Who says what in each message of the prompt, and the steps."""
        return [*_written(self.prompt), *self.steps]


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer that somebody called desirable or undesirable, without another one to compare it with, for KTO."""

    prompt: list[Message]
    answer: list[Message]
    desirable: bool

    def texts(self) -> list[str]:
        """Who says what in each message of the prompt and of the answer."""
        return _written(self.prompt + self.answer)


@dataclass(frozen=True)
class Prompt:
    """Messages that a user ends and nobody has answered: for stages that let the model answer."""

    messages: list[Message]
    others: dict[str, Any] = field(default_factory=dict, repr=False)

    def texts(self) -> list[str]:
        """Who says what in each message."""
        return _written(self.messages)


Example = Text | Conversation | Preference | LabelledAnswer | Prompt | Steps
