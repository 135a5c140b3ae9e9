"""What a row of any supported file becomes: a text, a conversation, a preference pair or a labelled answer."""

from dataclasses import dataclass

from minigpt.text.messages import Message


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

    def texts(self) -> list[str]:
        """What each message says."""
        return [message["content"] for message in self.messages]


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt for DPO: `prompt + chosen` is preferred to `prompt + rejected`."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]

    def texts(self) -> list[str]:
        """What each message of the prompt and of both answers says."""
        return [message["content"] for message in self.prompt + self.chosen + self.rejected]


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer that somebody called desirable or undesirable, without another one to compare it with, for KTO."""

    prompt: list[Message]
    answer: list[Message]
    desirable: bool

    def texts(self) -> list[str]:
        """What each message of the prompt and of the answer says."""
        return [message["content"] for message in self.prompt + self.answer]


Example = Text | Conversation | Preference | LabelledAnswer
