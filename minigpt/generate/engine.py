"""From prompts to answers: prefill, then one token per step, for one prompt or a batch of unequal ones."""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from backends.base import Array
from backends.tree import Tree
from minigpt.errors import UsageError
from minigpt.generate.cache import KVCache, check_cache_bits, joined, new_cache
from minigpt.generate.sampling import Sampling, sample
from minigpt.generate.speculate import Speculation, speculated
from minigpt.model.gpt import GPT
from minigpt.text.chatml import render
from minigpt.text.messages import Message
from minigpt.text.tokenizer import Tokenizer

# Tokens of filling that cost about as much as reading a prompt by itself, as every pass reads all weights. On CPUs 16
# to 64 do equally well; on GPUs, where a pass is worth more tokens, it is not measured.
FILLING = {"cpu": 32, "gpu": 256}


@dataclass(frozen=True)
class Answer:
    """What was generated: ids without the stop token, their text, and why it ended ("stop", "length", "context").

    `stop` is the token that ended it, where one did.
    """

    ids: list[int]
    text: str
    reason: str
    stop: int | None = field(default=None, compare=False)

    @property
    def tokens(self) -> list[int]:
        """The ids with the token that ended it."""
        return self.ids if self.stop is None else [*self.ids, self.stop]


class Engine:
    """A model with its weights and tokenizer, ready to answer."""

    def __init__(self, model: GPT, weights: Tree, tokenizer: Tokenizer, kv_bits: int = 0):
        check_cache_bits(model.config, kv_bits)
        self.model, self.weights, self.tokenizer = model, weights, tokenizer
        self.kv_bits = kv_bits  # 0: keys and values as they are computed

    def stream(
        self, prompt: list[int], sampling: Sampling, max_tokens: int, speculation: Speculation | None = None
    ) -> Iterator[str]:
        """Pieces of the answer as they become complete characters; the return value is the Answer.

        With a `speculation` it is the same answer, sooner.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        ids: list[int] = []
        reason = "length"
        for token in self._alone(prompt, sampling, max_tokens, speculation):
            if token in self.tokenizer.stops:
                reason = "stop"
                break
            ids.append(token)
            if piece := decoder.decode(self.tokenizer.bytes_of(token)):
                yield piece
        else:
            reason = "context" if len(ids) < max_tokens else "length"
        if piece := decoder.decode(b"", final=True):
            yield piece
        return Answer(ids, self.tokenizer.decode(ids), reason)

    def streamed(
        self, prompt: list[int], sampling: Sampling, max_tokens: int, speculation: Speculation | None = None,
        write: Callable[[str], object] = str,
    ) -> Answer:  # fmt: skip
        """The Answer of a stream; its pieces go to `write` as they come."""
        stream = self.stream(prompt, sampling, max_tokens, speculation)
        while True:
            try:
                write(next(stream))
            except StopIteration as end:
                return end.value

    def answer(self, prompts: Sequence[list[int]], sampling: Sampling, max_tokens: int) -> list[Answer]:
        """One answer per prompt. Each is what its prompt would get alone; the settings' seed holds for every one."""
        return self.answer_each(prompts, [sampling] * len(prompts), max_tokens)

    def answer_each(
        self, prompts: Sequence[list[int]], samplings: Sequence[Sampling], max_tokens: int
    ) -> list[Answer]:
        """Like `answer`, with settings of its own for each prompt."""
        if not prompts:
            return []
        found: list[list[int]] = [[] for _ in prompts]
        reasons, stops = [""] * len(prompts), dict[int, int]()
        for tokens in self._tokens(prompts, samplings, max_tokens):
            for i, token in enumerate(tokens):
                if reasons[i]:
                    continue
                if len(prompts[i]) + len(found[i]) >= self.model.config.context:
                    reasons[i] = "context"  # alone, this token would not have been computed
                elif token in self.tokenizer.stops:
                    reasons[i], stops[i] = "stop", token
                else:
                    found[i].append(token)
            if all(reasons):
                break
        return [
            Answer(ids, self.tokenizer.decode(ids), reason or ("length" if len(ids) >= max_tokens else "context"),
                   stops.get(i))
            for i, (ids, reason) in enumerate(zip(found, reasons, strict=True))
        ]

    def _alone(
        self, prompt: list[int], sampling: Sampling, max_tokens: int, speculation: Speculation | None
    ) -> Iterator[int]:
        if speculation is None:
            return (tokens[0] for tokens in self._tokens([prompt], [sampling], max_tokens))
        return speculated(self, speculation, prompt, sampling, self._steps([prompt], max_tokens))

    def _tokens(
        self, prompts: Sequence[list[int]], samplings: Sequence[Sampling], max_tokens: int
    ) -> Iterator[list[int]]:
        """The next token of every prompt, again and again, until `max_tokens` or the context is full.

        Every row of the cache has its own length, so that a token has the position that it has when its prompt is
        answered alone.
        """
        backend = self.model.backend
        steps, longest = self._steps(prompts, max_tokens), max(map(len, prompts))
        seen = [list(prompt) for prompt in prompts]
        with backend.inference():  # left before a yield: it would hold for the caller as well
            logits, cache = self._read(prompts, longest + steps)
            chosen = self._choose(logits, samplings, seen, 0)

        def after(ids: Array, position: int) -> list[int] | Array:
            with backend.inference():
                return self._choose(self._next_logits(ids, cache), samplings, seen, position)

        for position in range(1, steps + 1):
            read, following = isinstance(chosen, list), None
            if backend.lazy and not read and position < steps:
                following = after(chosen[:, None], position)  # begun before this token is read
            tokens = chosen if read else [int(token) for token in backend.numpy(chosen)]
            yield tokens
            for text, token in zip(seen, tokens, strict=True):
                text.append(token)
            if position < steps:
                last = np.array(tokens, np.int32)[:, None]  # (B, 1)
                chosen = after(backend.array(last), position) if following is None else following

    def _read(self, prompts: Sequence[list[int]], capacity: int) -> tuple[Array, KVCache]:
        """The logits (B, V) after each prompt, and a cache for `capacity` tokens.

        Prompts of about the same length are read together, filled up at their ends; equal ones are read once.
        """
        backend = self.model.backend
        distinct: dict[tuple[int, ...], int] = {}
        which = [distinct.setdefault(tuple(prompt), len(distinct)) for prompt in prompts]
        prompts = [list(prompt) for prompt in distinct]
        groups = _of_like_length(prompts, FILLING[backend.device])
        alone = len(groups) == 1 and len(prompts) == len(which)

        def read(group: list[int]) -> tuple[Array, KVCache]:
            longest = max(len(prompts[i]) for i in group)
            ids = [prompts[i] + [self.tokenizer.end_of_text] * (longest - len(prompts[i])) for i in group]
            room = capacity if alone else longest
            cache = new_cache(backend, self.model.config, len(group), room, self.model.dtype, self.kv_bits)
            lengths = [len(prompts[i]) for i in group]
            return self._next_logits(backend.array(np.array(ids, np.int32)), cache, lengths), cache

        found, caches = zip(*backend.side_by_side(read, groups), strict=True)
        if alone:
            return found[0], caches[0]
        order = np.argsort(np.concatenate(groups))[which]  # where in the groups each prompt stands
        return backend.take(backend.concat(list(found), 0), backend.array(order)), joined(caches, order, capacity)

    def _next_logits(self, ids: Array, cache: KVCache, lengths: list[int] | None = None) -> Array:
        """Logits (B, V) after ids (B, T) that continue the cache; of each row its first `lengths` count, or all."""
        lengths = None if lengths is None or len(set(lengths)) == 1 else lengths
        hidden = self.model.hidden(self.weights, ids, cache=cache, lengths=lengths, last=1)
        return self.model.logits(self.weights, hidden[:, -1])

    def _steps(self, prompts: Sequence[list[int]], max_tokens: int) -> int:
        """How many tokens to compute. Raises UsageError for a prompt that is empty or fills the context."""
        longest, shortest, context = max(map(len, prompts)), min(map(len, prompts)), self.model.config.context
        if shortest < 1 or longest >= context:
            raise UsageError(
                f"The prompt has {longest if shortest else 0} tokens; it must have 1 to {context - 1}.",
                "Shorten it, or train with a longer model.context.",
            )
        return min(max_tokens, context - shortest)

    def _choose(
        self, logits: Array, samplings: Sequence[Sampling], seen: list[list[int]], position: int
    ) -> list[int] | Array:
        """The next tokens; where all are the likeliest ones, an array (B,) int32 that may still be computed."""
        backend = self.model.backend
        if all(s.greedy for s in samplings):
            tokens = backend.argmax(logits, axis=-1)
            backend.async_eval(tokens)
            return tokens
        rows = backend.numpy(logits)
        return [sample(row, s, text, position) for row, s, text in zip(rows, samplings, seen, strict=True)]


def _of_like_length(prompts: Sequence[list[int]], filling: int) -> list[list[int]]:
    """The prompts' indices in groups; each needs at most `filling` more tokens to make all as long as the longest."""
    groups: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        if groups and len(prompts[groups[-1][0]]) - len(prompts[i]) <= filling:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [sorted(group) for group in groups]


def chat_prompt(tokenizer: Tokenizer, messages: list[Message], context: int, reserve: int) -> tuple[list[int], int]:
    """(ids, dropped): the conversation up to the assistant's turn, without its oldest turns if they do not fit.

    `reserve` tokens of the context stay free for the answer. A system message is kept.
    """
    system = messages[:1] if messages[0]["role"] == "system" else []
    turns = messages[len(system) :]
    dropped = 0
    while True:
        ids, _ = render(tokenizer, system + turns, generation_prompt=True)
        if len(ids) + reserve <= context or len(turns) <= 1:
            return ids, dropped
        cut = 2 if len(turns) > 2 else 1
        turns, dropped = turns[cut:], dropped + cut
