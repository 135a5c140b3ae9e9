"""Prompts on their way into the running batch: who waits, what is read, and which beginnings are known."""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from backends.base import Array
from minigpt.generate.cache import KVCache
from minigpt.generate.choice import taken
from minigpt.generate.prefix import NOTHING, Beginning, Piece, Prefixes, agreeing
from minigpt.generate.reading import FILLING, Reading, of_like_length, read_on, start_reading
from minigpt.generate.request import Sequence, Token

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine

SHARED = 32  # tokens that a prompt waits for when another one that begins with them is being read
Joining = tuple[Sequence, KVCache, int]  # a sequence with the cache that holds its prompt, and its row there


class Intake:
    """What comes before an answer's second token. Each `read` computes about `chunk` tokens of prompts.

    Beginnings of prompts stay known in `cache_bytes` (0: not at all).
    """

    def __init__(self, engine: "Engine", chunk: int, cache_bytes: int, exact: bool):
        self.engine, self.chunk, self.exact = engine, chunk, exact
        self.waiting: deque[Sequence] = deque()
        self.readings: deque[Reading] = deque()
        self._backend = engine.model.backend
        self.prefixes = Prefixes(self._backend, cache_bytes) if cache_bytes else None

    def read(self, free: int) -> tuple[list[Token], list[Joining]]:
        """Let requests in while rows are `free`, and read on: the first tokens of answers, and what goes on."""
        if not self.waiting and not self.readings:
            return [], []
        self._admit(free)
        chosen, budget = [], self.chunk
        while self.readings:
            cost = self.readings[0].cost(self.chunk)
            if chosen and cost > budget:
                break
            budget -= cost
            chosen.append(self.readings.popleft())
        found = self._backend.side_by_side(self._read_on, chosen)
        said: list[Token] = []
        joining: list[Joining] = []
        for reading, logits in zip(chosen, found, strict=True):
            if reading.error is None and logits is None:
                self.readings.append(reading)
                continue
            said += self._first_tokens(reading, logits, joining)
        return said, joining

    def remember(self, tokens: list[int], cache: KVCache, row: int) -> None:
        """Keep the beginning of a text that is in a row of a cache."""
        if self.prefixes is not None:
            tokens = tokens[: int(cache.lengths[row])]
            self.prefixes.keep(tokens, lambda start, stop: cache.cut(row, start, stop), cache.token_bytes)

    def cancel(self, sequence: Sequence) -> None:
        """Forget one that waits or is being read."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return
        for reading in list(self.readings):
            for some in reading.waiting:
                if sequence in some:
                    some.remove(sequence)
            if not reading.sequences:
                self.readings.remove(reading)

    # ---- who comes in

    def _admit(self, free: int) -> None:
        """Let requests in while rows are `free`: equal prompts together, and after a beginning that is being read."""
        held: list[Sequence] = []
        admitted: dict[tuple[int, ...], tuple[list[Sequence], Beginning]] = {}
        while self.waiting and free > 0:
            sequence = self.waiting.popleft()
            prompt = tuple(sequence.request.prompt)
            if prompt not in admitted:
                known = NOTHING if self.prefixes is None else self.prefixes.find(sequence.request.prompt[:-1])
                if self._begun_by_another(sequence.request.prompt, known.length, admitted):
                    held.append(sequence)
                    continue
                admitted[prompt] = [], known
            admitted[prompt][0].append(sequence)
            free -= 1
        self.waiting.extendleft(reversed(held))
        prompts = list(map(list, admitted))
        waiting, known = zip(*admitted.values(), strict=True) if admitted else ((), ())
        left = [len(prompt) - one.length for prompt, one in zip(prompts, known, strict=True)]
        filling = -1 if self.exact else FILLING[self._backend.device]
        for group in of_like_length(left, filling, self.chunk):
            pieces = [self._pieces(known[i]) for i in group]
            reading = start_reading(self.engine, [prompts[i] for i in group], [waiting[i] for i in group], pieces)
            self.readings.append(reading)

    def _begun_by_another(self, prompt: list[int], known: int, admitted: Iterable[tuple[int, ...]]) -> bool:
        """Whether a prompt with the same beginning is being read, so that waiting for it saves reading it twice."""
        if self.prefixes is None:
            return False
        others = [*map(list, admitted), *(other for reading in self.readings for other in reading.prompts)]
        shared = max((agreeing(prompt[:-1], other) for other in others if other != prompt), default=0)
        return shared - known >= SHARED

    def _pieces(self, known: Beginning) -> list[tuple[Piece, int]]:
        """The keys and values of a beginning; with `exact` in whole chunks, so that all passes are the same."""
        return [] if self.prefixes is None else self.prefixes.use(known, self.chunk if self.exact else 1)

    # ---- a chunk of the prompts

    def _read_on(self, reading: Reading) -> Array | None:
        try:
            return read_on(self.engine, reading, self.chunk)
        except Exception as error:  # such as too little memory: it ends these prompts alone
            reading.error = error
            return None

    def _first_tokens(self, reading: Reading, logits: Array | None, joining: list[Joining]) -> list[Token]:
        """The first token of each answer; what goes on is added to `joining`."""
        rows = [(sequence, row) for row, some in enumerate(reading.waiting) for sequence in some]
        sequences = [sequence for sequence, _ in rows]
        try:
            if reading.error is not None:
                raise reading.error
            if (numbers := [row for _, row in rows]) != list(range(len(reading.prompts))):
                logits = self._backend.take(logits, self._backend.array(numbers))
            said = taken(self._backend, logits, sequences)
            for row, prompt in enumerate(reading.prompts):
                self.remember(prompt, reading.cache, row)
        except Exception as error:
            return [sequence.fail(error) for sequence in sequences if not sequence.reason]
        joining += [(sequence, reading.cache, row) for sequence, row in rows if not sequence.reason]
        return said
