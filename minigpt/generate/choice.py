"""The next tokens of several rows, each by its own settings."""

import numpy as np

from backends.base import Array, Backend
from minigpt.generate.request import Logprob, Sequence, Token
from minigpt.generate.sampling import log_softmax, probabilities_of_rows, sample

TOGETHER = 2**21  # numbers whose passes do not leave the cache


def likeliest(backend: Backend, logits: Array, rows: list[Sequence]) -> Array | None:
    """(B,) int32, which may still be computed, where all rows want no more than that; else None."""
    if not all(row.request.plain for row in rows):
        return None
    tokens = backend.argmax(logits, axis=-1)
    backend.async_eval(tokens)
    return tokens


def taken(backend: Backend, logits: Array, rows: list[Sequence]) -> list[Token]:
    """The next token of each row by its logits (B, V). A row where that fails ends by itself."""
    if (tokens := likeliest(backend, logits, rows)) is not None:
        return [row.take(int(token)) for row, token in zip(rows, backend.numpy(tokens), strict=True)]
    scores = backend.numpy(logits)
    shares = _shares(scores, rows)
    return [next_token(row, scores[i], None if shares is None else shares[i]) for i, row in enumerate(rows)]


def _shares(scores: np.ndarray, rows: list[Sequence]) -> np.ndarray | None:
    """The probabilities (B, V) of all rows where they can be computed together, and that pays."""
    if len(rows) == 1 or scores.size > TOGETHER:
        return None
    if not all(row.request.sampling.by_temperature and row.matcher is None for row in rows):
        return None
    return probabilities_of_rows(scores, [row.request.sampling.temperature for row in rows])


def next_token(row: Sequence, scores: np.ndarray, share: np.ndarray | None = None) -> Token:
    """Choose the token of a row by its logits (V,), and go on by it; `share` (V,) are its probabilities, if known."""
    request = row.request
    try:
        allowed = None if row.matcher is None else _as_wide(row.matcher.allowed(), len(scores))
        token = sample(scores, request.sampling, row.seen, len(row.ids), allowed, share)
        found = None if request.logprobs is None else _logprob(scores, token, request.logprobs)
        return row.take(token, found)
    except Exception as error:  # whatever it is, it ends this row alone, which says it
        return row.fail(error)


def _as_wide(allowed: np.ndarray, width: int) -> np.ndarray:
    """`allowed` for a model that has room for more tokens than there are, or fewer rows."""
    return np.pad(allowed[:width], (0, max(0, width - len(allowed))))


def _logprob(scores: np.ndarray, token: int, count: int) -> Logprob:
    shares = log_softmax(scores.astype(np.float64))  # (V,)
    best = np.argsort(-shares, kind="stable")[:count]
    return Logprob(token, float(shares[token]), tuple((int(i), float(shares[i])) for i in best))
