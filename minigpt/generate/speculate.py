"""Speculative decoding: draft several tokens, check them all in one forward pass, keep those that are right.

A pass over eight tokens reads the weights as often as a pass over one: once, and that is what a step costs. Somebody
cheaper proposes the next tokens (see `minigpt.generate.proposers`), and the model computes the logits after each of
them at once.

The answer is the one that the plain engine gives, token for token, for greedy and for sampled answers: `sample` is a
pure function of logits, settings, text and position, so each token is chosen by the same call as ever, and a draft
token is kept only where it is what was chosen. Leviathan et al. 2023 and Chen et al. 2023 accept by a ratio of
probabilities instead, which keeps the distribution but not the tokens. A draft that draws with the same seed and
position (common random numbers) agrees often, though not as often as their rule, which is the best one there is: that
is the price of having the same answer with and without.

The logits of a wider pass differ in their last bits, so a close call may go the other way. In float32 that takes two
tokens whose scores agree to about six digits: of 1,200 answers on each backend (a briefly trained tiny model, 200
texts, two drafts and look-up, greedy and sampled) none was another. Where numbers are rounded more it happens: 39 of
600 in bfloat16, and 2 of 960 with keys and values in 4 or 8 bits, as a number between two codes may go either way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from backends.base import Array
from minigpt.generate.cache import KVCache, new_cache
from minigpt.generate.sampling import Sampling, sample

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine

FIRST = 4  # draft tokens in the first pass of an answer


class Proposer(Protocol):
    """Draft tokens for one answer. The texts that it is shown continue each other."""

    def propose(self, text: list[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `text`, the prompt with the answer so far."""


@dataclass
class Speculation:
    """Who drafts, how much at most, and what came of it; one may serve many answers, one after the other."""

    start: Callable[[list[int], Sampling, int], Proposer]  # (prompt, settings, most tokens of text) of a new answer
    most: int = 8  # draft tokens in one pass
    passes: int = 0
    tokens: int = 0  # that these passes gave
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0  # as the caller has timed it


def speculated(
    engine: "Engine", speculation: Speculation, prompt: list[int], sampling: Sampling, steps: int
) -> Iterator[int]:
    """The next token of the text, `steps` times. Draft tokens after the one where the caller stops are forgotten."""
    model, text, count = engine.model, list(prompt), min(FIRST, speculation.most)
    cache = new_cache(model.backend, model.config, 1, len(prompt) + steps, model.dtype, engine.kv_bits)
    proposer = speculation.start(prompt, sampling, len(prompt) + steps)
    while len(text) < len(prompt) + steps:
        room = len(prompt) + steps - len(text) - 1  # the pass gives one token more than were drafted
        draft = proposer.propose(text, min(count, room))
        logits = last_logits(engine, text[cache.length :] + draft, cache, len(draft) + 1)
        choose = chooser(engine, logits, sampling, len(prompt))
        speculation.passes += 1
        speculation.drafted += len(draft)
        for row, drafted in enumerate([*draft, None]):
            token = choose(row, text)
            text.append(token)
            speculation.tokens += 1
            speculation.accepted += token == drafted
            yield token
            if token != drafted:
                break
        cache.length = len(text) - 1  # cut back: the keys of wrong draft tokens are overwritten by the next pass
        if draft:
            count = _next_count(count, row == len(draft), speculation.most)


def _next_count(count: int, all_right: bool, most: int) -> int:
    """Two more after a pass without a fault, else one less: the rule of transformers' assisted generation."""
    return min(count + 2, most) if all_right else max(count - 1, 1)


def last_logits(engine: "Engine", ids: list[int], cache: KVCache, count: int) -> Array:
    """Logits (count, V) of the last `count` of the ids, which continue what the cache holds."""
    model = engine.model
    with model.backend.inference():
        array = model.backend.array(np.array([ids], np.int32))
        hidden = model.hidden(engine.weights, array, cache=cache, last=count)
        return model.logits(engine.weights, hidden[0])


def chooser(engine: "Engine", logits: Array, sampling: Sampling, begin: int) -> Callable[[int, list[int]], int]:
    """choose(row, text): the token that follows `text` by this row of the logits, as the plain engine chooses it.

    The answer begins after `begin` tokens of the text.
    """
    backend = engine.model.backend
    if sampling.greedy:
        best = backend.numpy(backend.argmax(logits, axis=-1))
        return lambda row, text: int(best[row])
    scores = backend.numpy(logits)
    return lambda row, text: sample(scores[row], sampling, text, len(text) - begin)
