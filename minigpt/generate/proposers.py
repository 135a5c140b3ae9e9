"""Who proposes draft tokens in speculative decoding: what stood in the text before, or a smaller model."""

from typing import TYPE_CHECKING

import numpy as np

from minigpt.errors import UsageError
from minigpt.generate.cache import new_cache
from minigpt.generate.prefix import agreeing
from minigpt.generate.sampling import Sampling, sample
from minigpt.generate.speculate import Speculation

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine


def lookup(most: int) -> Speculation:
    """Prompt look-up with at most `most` draft tokens in a pass."""
    return Speculation(lambda *_: PromptLookup(), most)


def drafting(engine: "Engine", draft: "Engine", most: int) -> Speculation:
    """A draft for `engine`'s answers. Raises UsageError when its tokens are others."""
    tokens = [(one.model.config.vocab_size, one.tokenizer.token_bytes) for one in (engine, draft)]
    if tokens[0] != tokens[1]:
        hint = "Take a smaller model that was trained with the same data and tokenizer settings."
        raise UsageError("The draft's tokens are not the model's, so that what it drafts means nothing.", hint)
    return Speculation(lambda *answer: Draft(draft, *answer), most)


class PromptLookup:
    """What followed the last time that the text's last three tokens (or two, or one) stood in it (Saxena 2023).

    A table holds the place after each of these groups; a new token costs three entries, however long the text.
    """

    LONGEST = 3

    def __init__(self) -> None:
        self.places: dict[tuple[int, ...], int] = {}  # of one to three tokens: where the last one's follower stands
        self.known = 1  # followers of tokens before this place are in the table

    def propose(self, text: list[int], count: int) -> list[int]:
        """At most `count` tokens; where the copy reaches the text's end it goes on with itself, as in LZ77."""
        self._learn(text)
        for size in range(min(self.LONGEST, len(text)), 0, -1):
            if (place := self.places.get(tuple(text[-size:]))) is not None:
                period = len(text) - place
                return [text[place + i % period] for i in range(count)]
        return []

    def _learn(self, text: list[int]) -> None:
        for place in range(self.known, len(text)):
            for size in range(1, min(self.LONGEST, place) + 1):
                self.places[tuple(text[place - size : place])] = place
        self.known = max(self.known, len(text))


class Draft:
    """A smaller model's own answer, chosen with the same settings, seed and position as the model will choose.

    After the end of its own context it proposes nothing.
    """

    def __init__(self, engine: "Engine", prompt: list[int], sampling: Sampling, capacity: int):
        model = engine.model
        self.engine, self.sampling, self.begin = engine, sampling, len(prompt)
        capacity = min(capacity, model.config.context)
        self.cache = new_cache(model.backend, model.config, 1, capacity, model.dtype, engine.kv_bits)
        self.first, self.drafted = 0, list[int]()  # of the text before: its length, and what was proposed after it

    def propose(self, text: list[int], count: int) -> list[int]:
        """At most `count` tokens, one forward pass of the draft for each."""
        self.cache.length = min(self.cache.length, self.first + agreeing(self.drafted, text[self.first :]))
        self.first, text = len(text), list(text)
        for _ in range(min(count, self.engine.model.config.context - self.first)):
            text.append(self._next(text))
        self.drafted = text[self.first :]
        return self.drafted

    def _next(self, text: list[int]) -> int:
        """The token that follows the text, chosen as the plain engine chooses it."""
        model = self.engine.model
        with model.backend.inference():
            ids = model.backend.array(np.array([text[self.cache.length :]], np.int32))
            hidden = model.hidden(self.engine.weights, ids, cache=self.cache, last=1)
            logits = model.logits(self.engine.weights, hidden[0])  # (1, V)
        if self.sampling.greedy:
            return int(model.backend.numpy(model.backend.argmax(logits, axis=-1))[0])
        return sample(model.backend.numpy(logits)[0], self.sampling, text, len(text) - self.begin)
