"""Conversations as token ids, in ChatML: `<|im_start|>role⏎ content <|im_end|>⏎` per message.

Ids and loss mask are built together. The content is encoded as plain text and the control tokens are put in
by id, so that nothing a user writes can become a control token. A tokenizer that came with a model has a way of
its own (see `minigpt.text.imported`).
"""

from minigpt.text.messages import Message, is_learned
from minigpt.text.tokenizer import IM_END, IM_START, Tokenizer


def render(
    tokenizer: Tokenizer, messages: list[Message], generation_prompt: bool = False
) -> tuple[list[int], list[int]]:
    """(ids, mask) of a conversation; the mask is 1 on each assistant's content and its end-of-turn token.

    An answer of weight 0 has the mask 0. With `generation_prompt` the ids end with the opening of an assistant's turn.
    Rendering the messages before an assistant's turn that way gives a prefix of rendering them with it.
    """
    if (own := tokenizer.render(messages, generation_prompt)) is not None:
        return own
    newline = tokenizer.encode("\n")
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        opening = [IM_START, *tokenizer.encode(message["role"]), *newline]
        content = [*tokenizer.encode(message["content"]), IM_END]
        learned = int(is_learned(message))
        ids += opening + content + newline
        mask += [0] * len(opening) + [learned] * len(content) + [0] * len(newline)
    if generation_prompt:
        opening = [IM_START, *tokenizer.encode("assistant"), *newline]
        ids += opening
        mask += [0] * len(opening)
    return ids, mask
