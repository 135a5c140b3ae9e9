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
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.base import Array
from minigpt.errors import UsageError
from minigpt.generate.batch import Batch
from minigpt.generate.choice import likeliest, next_token, taken
from minigpt.generate.intake import Intake
from minigpt.generate.request import Request, Sequence, Token
from minigpt.generate.speculate import after_pass, draft_of

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine

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
        self.engine, self.rows, self.exact = engine, rows, exact
        self._backend = engine.model.backend
        self._intake = Intake(engine, chunk, cache_bytes, exact)
        shape = (rows, engine.model.config.context) if exact else (1, 0)
        self._batch = Batch(engine.model, engine.weights, shape)
        self._ahead: tuple[list[Sequence], Array] | None = None  # rows, and logits that are begun

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
        self._intake.waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence without another token; its row is free for the next step."""
        if sequence.reason:
            return
        sequence.reason = "cancelled"
        if sequence in self._batch.rows:
            with self._backend.inference():
                self._batch.leave(sequence)
        else:
            self._intake.cancel(sequence)

    def step(self) -> list[Token]:
        """One pass of the running rows and a chunk of prompts; the tokens that came of it, in order of each row's."""
        with self._backend.inference():
            said = self._decode()
            first, joining = self._intake.read(self.rows - self.running)
            self._batch.join(joining)
            return said + first

    @property
    def idle(self) -> bool:
        """Whether no request is in flight."""
        return not (self._intake.waiting or self._intake.readings or self._batch.rows)

    @property
    def running(self) -> int:
        """Requests whose prompt is being read, or whose answer is being made."""
        return len(self._batch.rows) + sum(len(reading.sequences) for reading in tuple(self._intake.readings))

    @property
    def waiting(self) -> int:
        """Requests that wait for a free row."""
        return len(self._intake.waiting)

    @property
    def metrics(self) -> Metrics:
        known = self._intake.prefixes
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
                self._intake.remember(row.seen, self._batch.cache, self._batch.rows.index(row))
            self._batch.leave(row)
