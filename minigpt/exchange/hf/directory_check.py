"""What transformers and mlx-lm read from a directory, held against the run: logits, token ids, chats, an answer."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from minigpt.errors import DataError
from minigpt.exchange.readers.checks import Check
from minigpt.exchange.readers.probes import random_conversations, random_texts
from minigpt.exchange.readers.readers import READERS, Reader, cannot_read, is_installed
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.model.heads import WRITES
from minigpt.text.chatml import render
from minigpt.text.messages import Message
from minigpt.text.tokenizer import Tokenizer

LOGITS = 1e-4  # the largest difference of a logit, both computed in float32
ANSWERS = 8  # that are scored
HELLO: list[Message] = [{"role": "user", "content": "Hello! Who are you?"}]


def check_directory(
    directory: Path, engine: Engine, readers: Sequence[type[Reader]] = READERS, text_count: int = 300,
    chat_count: int = 60,
) -> list[Check]:  # fmt: skip
    """The checks of all readers that are installed; `engine` holds the weights as they were stored, in float32."""
    found: list[Check] = []
    for reader in readers:
        reason = cannot_read(reader, directory) if is_installed(reader) else "not installed"
        if reason:
            found.append(Check(reader.name, "everything", None, 0.0, reason))
        else:
            found += check_reader(reader(directory), engine, text_count, chat_count)
    return found


def check_reader(reader: Reader, engine: Engine, text_count: int, chat_count: int) -> list[Check]:
    """Logits within 1e-4; token ids, chats and the greedy answer must be the same."""
    tokenizer = engine.tokenizer
    writes = engine.model.config.head == WRITES
    shape = " x ".join(map(str, _ids(engine).shape))
    texts = random_texts(tokenizer, text_count, marks=True)
    differing = sum(reader.encode(text) != tokenizer.encode(text) for text in texts)
    checks = [
        Check(reader.name, f"logits, {shape} tokens", _logits(reader, engine), LOGITS) if writes else
        Check(reader.name, f"scores of {ANSWERS} answers", _scores(reader, engine), LOGITS),
        Check(reader.name, f"token ids of {text_count:,} texts", differing, 0),
    ]
    if tokenizer.chats:
        talks = [talk for talk in random_conversations(tokenizer, chat_count, marks=True) if is_fair(tokenizer, talk)]
        differing = sum(differs(reader, tokenizer, talk) for talk in talks)
        checks.append(Check(reader.name, f"token ids of {len(talks):,} chats", differing, 0))
    prompt = render(tokenizer, HELLO, True)[0] if tokenizer.chats else tokenizer.prompt(HELLO[0]["content"])
    if writes and len(prompt) < engine.model.config.context:
        checks.append(Check(reader.name, "greedy answer, tokens", _answer(reader, engine, prompt), 0))
    return checks


def differs(reader: Reader, tokenizer: Tokenizer, messages: list[Message]) -> bool:
    """Whether a conversation, with an open assistant's turn or an answer at its end, has other ids there than here."""
    if reader.chat(messages, True) != render(tokenizer, messages, True)[0]:
        return True
    whole = _answered(messages)
    return reader.chat(whole, False) != render(tokenizer, whole)[0]


def _answered(messages: list[Message]) -> list[Message]:
    return [*messages, {"role": "assistant", "content": messages[0]["content"]}]


def is_fair(tokenizer: Tokenizer, talk: list[Message]) -> bool:
    """Whether a template that came with a model takes a conversation, so that a loss mask can be made of it, and no
    user writes a control token's name.

    Other tools take such a name for the token itself; ours never do.
    """
    try:
        render(tokenizer, talk, True)
        render(tokenizer, _answered(talk))
    except DataError:
        return False
    return not any(tokenizer.mentions_control(message["content"]) for message in talk)


def _ids(engine: Engine) -> np.ndarray:
    """Two rows of random ids, as long as the context or 160."""
    config = engine.model.config
    length = min(config.context, 160)
    return np.random.default_rng(0).integers(0, config.vocab_size, (2, length)).astype(np.int32)


def _logits(reader: Reader, engine: Engine) -> float:
    ids, backend = _ids(engine), engine.model.backend
    ours = backend.numpy(engine.model(engine.weights, backend.array(ids)))
    found = float(np.abs(reader.logits(ids) - ours).max())
    return found if np.isfinite(found) else float("inf")


def _scores(reader: Reader, engine: Engine) -> float:
    """The largest difference of a score; they read the answers side by side, padded, we read each one alone."""
    model, draw = engine.model, np.random.default_rng(0)
    context, backend = min(model.config.context, 96), model.backend
    rows = [draw.integers(1, model.config.vocab_size, draw.integers(2, context)) for _ in range(ANSWERS)]
    rows = [row[row != reader.padding].astype(np.int32) for row in rows]
    hidden = [model.hidden(engine.weights, backend.array(row[None])) for row in rows]
    ours = np.array([float(backend.numpy(model.scores(engine.weights, one))[0, -1]) for one in hidden])
    found = float(np.abs(reader.scores(rows) - ours).max())
    return found if np.isfinite(found) else float("inf")


def _answer(reader: Reader, engine: Engine, prompt: list[int], longest: int = 24) -> int:
    """How many places of the greedy answer differ."""
    count = min(longest, engine.model.config.context - len(prompt))
    ours = engine.answer([prompt], GREEDY, count)[0]
    theirs = list(takewhile(lambda token: token not in engine.tokenizer.stops, reader.greedy(prompt, count)))
    pairs = zip([*ours.ids, *[None] * count], [*theirs, *[None] * count], strict=False)
    return sum(a != b for a, b in pairs)
