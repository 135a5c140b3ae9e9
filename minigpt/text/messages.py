"""What a conversation is made of."""

from typing import NotRequired, TypedDict

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """What one of ROLES said. `weight` 0 keeps an assistant's answer from being learned; other messages have none."""

    role: str
    content: str
    weight: NotRequired[int]


def is_learned(message: Message) -> bool:
    """Whether training learns the content: an assistant's, unless its weight is 0."""
    return message["role"] == "assistant" and message.get("weight", 1) != 0
