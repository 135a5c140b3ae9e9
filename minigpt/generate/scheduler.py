"""Many answers at once: requests join and leave a running batch between two steps (Yu et al. 2022, Orca).

    scheduler = Scheduler(engine, rows=16)
    sequence = scheduler.add(Request(prompt, Sampling(), max_tokens=100))
    while not scheduler.idle:
        for token in scheduler.step():
            print(token.text, end="")
    print(sequence.reason)

A step is one pass of all running rows by one token (or several, where draft tokens were right), and a chunk of the
prompts that are on their way: nobody waits behind a long prompt. Each row has its own length, position, settings and
seed; what it answers does not depend on its neighbours. One thread adds, cancels and steps.

In float32 a row's scores can differ in their last bits with the number of rows, as a product's kernel adds in another
order: that changes a token only where two have equal scores to about six digits. With `exact` even the bits are the
same: passes have at least eight rows, which costs a single answer about half of its speed (see the handbook's chapter
on generation).
"""

import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.base import Array
from minigpt.errors import UsageError
from minigpt.generate.batch import Batch
from minigpt.generate.choice import likeliest, next_token, taken
from minigpt.generate.prefix import NOTHING, Beginning, Piece, Prefixes, agreeing
from minigpt.generate.reading import FILLING, Reading, of_like_length, read_on, start_reading
from minigpt.generate.request import Request, Sequence, Token
from minigpt.generate.speculate import after_pass, draft_of

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine

SHARED = 32  # tokens that a prompt waits for when another one that begins with them is being read
UNBOUNDED = sys.maxsize


@dataclass(frozen=True)
class Metrics:
    """How the memory is used: for dashboards."""

    prefix_queries: int = 0  # tokens of prompts that were looked up among the known beginnings
    prefix_hits: int = 0  # and of those the ones that were found
    prefix_bytes: int = 0
    kv_usage: float = 0.0  # tokens that all rows hold, as a share of what they may


class Scheduler:
    """The requests in flight on one engine.

    At most `rows` run at once, others wait. A step reads about `chunk` tokens of prompts. Beginnings of prompts stay
    known in `cache_bytes` (0: not at all).
    """

    def __init__(
        self, engine: "Engine", rows: int = 16, chunk: int = 256, cache_bytes: int = 2**28, exact: bool = False
    ):
        self.engine, self.rows, self.chunk, self.exact = engine, rows, chunk, exact
        self._backend = engine.model.backend
        self._waiting: deque[Sequence] = deque()
        self._readings: deque[Reading] = deque()
        shape = (rows, engine.model.config.context) if exact else (1, 0)
        self._batch = Batch(engine.model, engine.weights, shape)
        self._ahead: tuple[list[Sequence], Array] | None = None  # rows, and logits that are begun
        self._prefixes = Prefixes(self._backend, cache_bytes) if cache_bytes else None

    def add(self, request: Request) -> Sequence:
        """Queue a request. Raises UsageError for a prompt that is empty or fills the context."""
        context = self.engine.model.config.context
        if not 1 <= len(request.prompt) < context:
            raise UsageError(
                f"The prompt has {len(request.prompt)} tokens; it must have 1 to {context - 1}.",
                "Shorten it, or train with a longer model.context.",
            )
        if request.max_tokens < 1:
            raise UsageError(f"max_tokens cannot be {request.max_tokens}.", "It must be 1 or more.")
        sequence = Sequence(request, self.engine.tokenizer, context)
        if request.speculation is not None:
            most = len(request.prompt) + sequence.remaining
            sequence.proposer = request.speculation.start(request.prompt, request.sampling, most)
        self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence without another token; its row is free for the next step."""
        if sequence.reason:
            return
        sequence.reason = "cancelled"
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        elif sequence in self._batch.rows:
            with self._backend.inference():
                self._batch.leave(sequence)
        else:
            self._forget_reader(sequence)

    def step(self) -> list[Token]:
        """One pass of the running rows and a chunk of prompts; the tokens that came of it, in order of each row's."""
        with self._backend.inference():
            said = self._decode()
            return said + self._read()

    @property
    def idle(self) -> bool:
        """Whether no request is in flight."""
        return not (self._waiting or self._readings or self._batch.rows)

    @property
    def running(self) -> int:
        """Requests whose prompt is being read, or whose answer is being made."""
        return len(self._batch.rows) + sum(len(reading.sequences) for reading in tuple(self._readings))

    @property
    def waiting(self) -> int:
        """Requests that wait for a free row."""
        return len(self._waiting)

    @property
    def metrics(self) -> Metrics:
        known = self._prefixes
        share = self._batch.tokens / (self.rows * self.engine.model.config.context)
        return Metrics(known.queries, known.hits, known.bytes, share) if known is not None else Metrics(kv_usage=share)

    # ---- one token for the running rows

    def _decode(self) -> list[Token]:
        rows = list(self._batch.rows)
        if not rows:
            return []
        try:
            drafting = any(row.proposer is not None for row in rows) and self._ahead is None
            said = self._with_drafts(rows) if drafting else self._one_each()
        except Exception as error:  # the pass itself: its rows end, what waits goes on
            said = [row.fail(error) for row in rows if not row.reason]
        self._dismiss([row for row in self._batch.rows if row.reason])
        return said

    def _one_each(self) -> list[Token]:
        """The next token of all rows that have logits, or of all; a lazy framework begins the one after it."""
        begun, self._ahead = self._ahead, None
        rows, logits = begun or (list(self._batch.rows), self._batch.logits())
        if gone := [row for row in rows if row.reason]:
            kept = [i for i, row in enumerate(rows) if not row.reason]
            rows = [rows[i] for i in kept]
            if not rows:
                return []
            logits = self._backend.take(logits, self._backend.array(kept))
        ready = self._backend.lazy and not gone and rows == self._batch.rows
        more = [row.proposer is None and row.remaining > 1 for row in rows]
        if ready and any(more) and (tokens := likeliest(self._backend, logits, rows)) is not None:
            self._ahead = rows, self._batch.logits(tokens[:, None])
            return [row.take(int(token)) for row, token in zip(rows, self._backend.numpy(tokens), strict=True)]
        return taken(self._backend, logits, rows)

    def _with_drafts(self, rows: list[Sequence]) -> list[Token]:
        """As many tokens of each row as were drafted rightly, and one more."""
        drafts = [draft_of(row) for row in rows]
        logits = self._batch.checked(drafts)  # (B, T, V)
        plain = likeliest(self._backend, logits, rows)
        found, said = self._backend.numpy(logits if plain is None else plain), []
        for row, scores, draft in zip(rows, found, drafts, strict=True):
            given, right = [], 0
            for at, drafted in zip(scores, [*draft, None], strict=False):
                given.append(row.take(int(at)) if plain is not None else next_token(row, at))
                right += given[-1].id == drafted
                if row.reason or given[-1].id != drafted:
                    break
            after_pass(row, draft, right, len(given))
            said += given
        self._batch.keep()
        return said

    def _dismiss(self, rows: list[Sequence]) -> None:
        for row in rows:
            if row.reason != "error" and not self.exact:  # an answer's keys were not computed in chunks
                self._remember(row.seen, self._batch.cache, self._batch.rows.index(row))
            self._batch.leave(row)

    # ---- a chunk of the prompts

    def _read(self) -> list[Token]:
        self._admit()
        chosen, budget = [], self.chunk
        while self._readings:
            cost = self._readings[0].cost(self.chunk)
            if chosen and cost > budget:
                break
            budget -= cost
            chosen.append(self._readings.popleft())
        found = self._backend.side_by_side(self._read_on, chosen)
        said, joining = [], []
        for reading, logits in zip(chosen, found, strict=True):
            if reading.error is None and logits is None:
                self._readings.append(reading)
                continue
            said += self._first_tokens(reading, logits, joining)
        self._batch.join(joining)
        return said

    def _read_on(self, reading: Reading) -> Array | None:
        try:
            return read_on(self.engine, reading, self.chunk)
        except Exception as error:  # such as too little memory: it ends these prompts alone
            reading.error = error
            return None

    def _first_tokens(self, reading: Reading, logits: Array | None, joining: list) -> list[Token]:
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
                self._remember(prompt, reading.cache, row)
        except Exception as error:
            return [sequence.fail(error) for sequence in sequences if not sequence.reason]
        joining += [(sequence, reading.cache, row) for sequence, row in rows if not sequence.reason]
        return said

    def _admit(self) -> None:
        """Let requests in while rows are free: equal prompts together, and after a beginning that is being read."""
        free, held = self.rows - self.running, []
        admitted: dict[tuple[int, ...], tuple[list[Sequence], Beginning]] = {}
        while self._waiting and free > 0:
            sequence = self._waiting.popleft()
            prompt = tuple(sequence.request.prompt)
            if prompt not in admitted:
                known = NOTHING if self._prefixes is None else self._prefixes.find(sequence.request.prompt[:-1])
                if self._begun_by_another(list(prompt), known.length, list(map(list, admitted))):
                    held.append(sequence)
                    continue
                admitted[prompt] = [], known
            admitted[prompt][0].append(sequence)
            free -= 1
        self._waiting.extendleft(reversed(held))
        prompts = list(map(list, admitted))
        waiting, known = zip(*admitted.values(), strict=True) if admitted else ((), ())
        left = [len(prompt) - one.length for prompt, one in zip(prompts, known, strict=True)]
        filling = -1 if self.exact else FILLING[self._backend.device]
        for group in of_like_length(left, filling, self.chunk):
            pieces = [self._pieces(known[i]) for i in group]
            reading = start_reading(self.engine, [prompts[i] for i in group], [waiting[i] for i in group], pieces)
            self._readings.append(reading)

    def _begun_by_another(self, prompt: list[int], known: int, admitted: list[list[int]]) -> bool:
        """Whether a prompt with the same beginning is being read, so that waiting for it saves reading it twice."""
        if self._prefixes is None:
            return False
        others = [*admitted, *(other for reading in self._readings for other in reading.prompts)]
        shared = max((agreeing(prompt[:-1], other) for other in others if other != prompt), default=0)
        return shared - known >= SHARED

    def _pieces(self, known: Beginning) -> list[tuple[Piece, int]]:
        """The keys and values of a beginning; with `exact` in whole chunks, so that all passes are the same."""
        return [] if self._prefixes is None else self._prefixes.use(known, self.chunk if self.exact else 1)

    def _remember(self, tokens: list[int], cache, row: int) -> None:
        """Keep the beginning of a text that is in a row of a cache."""
        if self._prefixes is not None:
            tokens = tokens[: int(cache.lengths[row])]
            self._prefixes.keep(tokens, lambda start, stop: cache.cut(row, start, stop), cache.token_bytes)

    def _forget_reader(self, sequence: Sequence) -> None:
        for reading in list(self._readings):
            for some in reading.waiting:
                if sequence in some:
                    some.remove(sequence)
            if not reading.sequences:
                self._readings.remove(reading)
