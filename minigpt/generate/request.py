"""What is asked of the engine, and what has come of it so far."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from minigpt.errors import MiniGPTError
from minigpt.generate.pieces import Pieces
from minigpt.generate.sampling import Sampling
from minigpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from minigpt.generate.speculate import Proposer, Speculation

NO_TOKEN = -1  # the id of a Token that says that its sequence has failed


class Matcher(Protocol):
    """Where one answer stands in a grammar."""

    done: bool  # whether nothing may follow but the end

    def allowed(self) -> np.ndarray:
        """(V,) bool: the tokens that may follow. Raises MiniGPTError when the grammar has failed."""

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed."""


class Constraint(Protocol):
    """A grammar that answers must have; one may serve many (see `minigpt.generate.constraint`)."""

    def start(self) -> Matcher:
        """The beginning of an answer."""


@dataclass(frozen=True)
class Request:
    """One prompt, and how it is to be answered."""

    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...] = ()  # texts that end the answer and are no part of it
    logprobs: int | None = None  # None: none; n: the chosen token's and those of the n likeliest
    constraint: Constraint | None = None
    speculation: "Speculation | None" = None

    @property
    def plain(self) -> bool:
        """Whether each token is the likeliest one, and nobody asks how likely."""
        return self.sampling.greedy and self.logprobs is None and self.constraint is None


@dataclass(frozen=True)
class Logprob:
    """How likely the model thinks a token is, before temperature and filters, and which others it thought of."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()  # (token, log-probability), the likeliest first


@dataclass(frozen=True)
class Token:
    """A token of an answer, with the text that has become whole by it.

    The one that ends the answer (`done`) may be a stop token; then `text` is what was held back. A sequence that
    fails ends with the id NO_TOKEN.
    """

    sequence: "Sequence"
    id: int
    text: str = ""
    logprob: float | None = None
    alternatives: tuple[tuple[int, float], ...] = ()
    done: bool = False


@dataclass(eq=False)
class Sequence:
    """A request in flight. It runs while `reason` is empty.

    `reason`: "stop" (a stop token, a stop text, or the grammar's end), "length", "context", "cancelled", "error".
    """

    request: Request
    tokenizer: Tokenizer
    context: int
    ids: list[int] = field(default_factory=list)  # of the answer, without a stop token
    text: str = ""  # of the answer, as far as it is whole
    reason: str = ""
    error: str = ""  # what went wrong, where the reason is "error"
    stop: int | str | None = None  # the token or the text that ended it
    logprobs: list[Logprob] = field(default_factory=list)  # one for each of `ids`, where they are asked for
    cached: int = 0  # tokens of the prompt that were not read, as they were known

    def __post_init__(self) -> None:
        self.seen = list(self.request.prompt)  # the text so far
        self.matcher = self.request.constraint.start() if self.request.constraint else None
        self.proposer: Proposer | None = None
        self.drafts = 0  # draft tokens in its next pass, at most
        self._pieces = Pieces(self.request.stops)

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def remaining(self) -> int:
        """Tokens that may still follow."""
        return min(self.request.max_tokens - len(self.ids), self.context - len(self.seen))

    def take(self, token: int, found: Logprob | None = None) -> Token:
        """Go on by a token that was chosen; says what has become of the text."""
        if token in self.tokenizer.stops:
            self.reason, self.stop = "stop", token
            return self._said(token, self._pieces.end(), found)
        self.ids.append(token)
        self.seen.append(token)
        if found is not None:
            self.logprobs.append(found)
        piece, stopped = self._pieces.add(self.tokenizer.bytes_of(token))
        if self.matcher is not None:
            self.matcher.accept(token)
        if stopped is not None:
            self.reason, self.stop = "stop", stopped
        elif self.matcher is not None and self.matcher.done:
            self.reason = "stop"
        elif self.remaining <= 0:
            self.reason = "length" if len(self.ids) >= self.request.max_tokens else "context"
        if self.reason and stopped is None:
            piece += self._pieces.end()
        return self._said(token, piece, found)

    def fail(self, error: Exception) -> Token:
        """End by an error; the answer so far stays."""
        self.reason = "error"
        self.error = str(error) if isinstance(error, MiniGPTError) else f"{type(error).__name__}: {error}"
        return Token(self, NO_TOKEN, done=True)

    def _said(self, token: int, piece: str, found: Logprob | None) -> Token:
        self.text += piece
        known = (found.logprob, found.alternatives) if found is not None else (None, ())
        return Token(self, token, piece, *known, done=bool(self.reason))


@dataclass(frozen=True)
class Answer:
    """What was generated: ids without the stop token, their text, and why it ended ("stop", "length", "context").

    `stop` is the token or the text that ended it, where one did; `logprobs` are those of the ids, if asked for.
    """

    ids: list[int]
    text: str
    reason: str
    stop: int | str | None = field(default=None, compare=False)
    logprobs: list[Logprob] = field(default_factory=list, compare=False)

    @property
    def tokens(self) -> list[int]:
        """The ids with the token that ended it."""
        return [*self.ids, self.stop] if isinstance(self.stop, int) else self.ids


def finished(sequence: Sequence) -> Answer:
    """The answer of a sequence that has ended. Raises MiniGPTError where it has failed."""
    if sequence.reason == "error":
        raise MiniGPTError(sequence.error)
    cut = isinstance(sequence.stop, str)  # within a token, perhaps
    text = sequence.text if cut else sequence.tokenizer.decode(sequence.ids)
    return Answer(sequence.ids, text, sequence.reason, sequence.stop, sequence.logprobs)
