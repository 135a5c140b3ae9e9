"""The next tokens of several rows, each by its own settings."""

import numpy as np

from backends.base import Array, Backend
from minigpt.generate.request import Logprob, Sequence, Token
from minigpt.generate.sampling import log_softmax, sample


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
    return [next_token(row, scores) for row, scores in zip(rows, backend.numpy(logits), strict=True)]


def next_token(row: Sequence, scores: np.ndarray) -> Token:
    """Choose the token of a row by its logits (V,), and go on by it."""
    request = row.request
    try:
        allowed = None if row.matcher is None else _as_wide(row.matcher.allowed(), len(scores))
        token = sample(scores, request.sampling, row.seen, len(row.ids), allowed)
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
