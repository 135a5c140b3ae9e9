"""Prompts on their way into the cache: read in chunks, equal ones once, those of like length together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backends.base import Array
from minigpt.generate.cache import KVCache, new_cache
from minigpt.generate.prefix import Piece
from minigpt.generate.request import Sequence

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine

# Tokens of filling that cost about as much as reading a prompt by itself, as every pass reads all weights. On CPUs 16
# to 64 do equally well; on GPUs, where a pass is worth more tokens, it is not measured.
FILLING = {"cpu": 32, "gpu": 256}


@dataclass(eq=False)
class Reading:
    """Different prompts that are read in the same passes, with the sequences that wait for each."""

    prompts: list[list[int]]
    waiting: list[list[Sequence]]
    cache: KVCache
    error: Exception | None = None

    @property
    def remaining(self) -> list[int]:
        """Tokens of each prompt that are not read yet."""
        return [len(prompt) - int(held) for prompt, held in zip(self.prompts, self.cache.lengths, strict=True)]

    @property
    def sequences(self) -> list[Sequence]:
        return [sequence for some in self.waiting for sequence in some]

    def cost(self, chunk: int) -> int:
        """Tokens of its next pass, with those that fill up the shorter prompts."""
        return min(max(self.remaining), chunk) * len(self.prompts)


def start_reading(
    engine: "Engine", prompts: list[list[int]], waiting: list[list[Sequence]],
    known: list[list[tuple[Piece, int]]] | None = None,
) -> Reading:  # fmt: skip
    """A reading that begins after what is `known` of each prompt: pieces, and how many tokens of each count.

    The last token is always read, for what follows it.
    """
    model = engine.model
    known = [[] for _ in prompts] if known is None else known
    lengths = [sum(tokens for _, tokens in pieces) for pieces in known]
    room = max(lengths) + max(len(prompt) - length for prompt, length in zip(prompts, lengths, strict=True))
    cache = new_cache(model.backend, model.config, len(prompts), room, model.dtype, engine.kv_bits)
    for row, pieces in enumerate(known):
        place = 0
        for piece, tokens in pieces:
            cache.fill(row, place, piece, tokens)
            place += tokens
        for sequence in waiting[row]:
            sequence.cached = place
    cache.length = np.array(lengths, np.int32)
    return Reading(prompts, waiting, cache)


def read_on(engine: "Engine", reading: Reading, chunk: int) -> Array | None:
    """The logits (B, V) after each prompt, or None when more than a chunk of a single prompt is left."""
    model, cache = engine.model, reading.cache
    tokens = min(max(reading.remaining), chunk)
    assert len(reading.prompts) == 1 or tokens == max(reading.remaining)
    rows = [
        prompt[held : held + tokens] for prompt, held in zip(reading.prompts, map(int, cache.lengths), strict=True)
    ]
    lengths = [len(row) for row in rows]
    ids = np.array([row + [engine.tokenizer.end_of_text] * (tokens - len(row)) for row in rows], np.int32)
    lengths = None if len(set(lengths)) == 1 else lengths
    hidden = model.hidden(engine.weights, model.backend.array(ids), cache=cache, lengths=lengths, last=1)
    if max(reading.remaining):
        model.backend.sync(hidden)
        return None
    return model.logits(engine.weights, hidden[:, -1])


def of_like_length(lengths: list[int], filling: int, most: int) -> list[list[int]]:
    """Indices in groups: each needs at most `filling` more tokens to make all as long as the longest.

    A group of several has at most `most` tokens, with the filling.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest - lengths[i] <= filling and longest * (len(groups[-1]) + 1) <= most:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [sorted(group) for group in groups]
