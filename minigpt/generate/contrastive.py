"""Contrastive search (Su et al. 2022): likely tokens whose meaning differs from that of the text so far."""

from typing import TYPE_CHECKING

import numpy as np

from backends.base import Array
from minigpt.errors import UsageError
from minigpt.generate.cache import joined, new_cache
from minigpt.generate.penalties import penalized
from minigpt.generate.request import Answer, Request, Sequence, finished
from minigpt.generate.sampling import softmax

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine


def contrastive_search(engine: "Engine", request: Request, count: int, alpha: float) -> Answer:
    """The answer whose every token v is, of the `count` likeliest ones, that with the largest (eq. 5)

        (1 - alpha) p(v | text) - alpha max_j cos(h_v, h_j)

    where h are the last layer's outputs of the token and of all tokens before. A pass computes all candidates side by
    side. Of the request's settings the penalties count. Raises UsageError for an alpha that is not from 0 to 1.
    """
    if not (0 <= alpha <= 1 and count >= 1):
        raise UsageError(f"Contrastive search has no {count} candidates with alpha {alpha}.", "Try 4 and 0.6.")
    if request.constraint or request.speculation or request.logprobs is not None:
        hint = "Omit log-probabilities, constraints and draft tokens."
        raise UsageError("Contrastive search chooses by more than probabilities.", hint)
    model, backend = engine.model, engine.model.backend
    sequence = Sequence(request, engine.tokenizer, model.config.context)
    prompt = len(request.prompt)
    with backend.inference():
        ids = backend.array(np.array([request.prompt], np.int32))
        cache = new_cache(backend, model.config, 1, prompt, model.dtype, engine.kv_bits)
        hidden = model.hidden(engine.weights, ids, cache=cache)  # (1, T, d)
        logits = backend.numpy(model.logits(engine.weights, hidden[0, -1:]))[0]  # (V,)
        directions = _directions(backend.numpy(hidden[0]))  # (T, d)
        cache = joined([cache], np.zeros(count, int), prompt + sequence.remaining)
        while not sequence.reason:
            shares, best = _candidates(logits, sequence, count)
            hidden, scores = _pass(engine, cache, best)
            found = _directions(hidden)  # (count, d)
            worth = (1 - alpha) * shares[best] - alpha * (found @ directions.T).max(axis=1)
            chosen = int(worth.argmax())
            sequence.take(int(best[chosen]))
            place = cache.longest - 1
            for row in range(count):  # the others forget their candidate
                cache.fill(row, place, cache.cut(chosen, place, place + 1), 1)
            directions, logits = np.concatenate([directions, found[chosen : chosen + 1]]), scores[chosen]
    return finished(sequence)


def _candidates(logits: np.ndarray, sequence: Sequence, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (V,) after the text so far, and the `count` likeliest tokens."""
    scores, sampling = logits.astype(np.float64), sequence.request.sampling
    if sampling.penalizes:
        scores = penalized(scores, sampling, sequence.seen, len(sequence.ids))
    shares = softmax(scores)
    return shares, np.argsort(-shares, kind="stable")[:count]


def _pass(engine: "Engine", cache, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states (count, d) and logits (count, V) after each of the candidates."""
    model = engine.model
    ids: Array = model.backend.array(tokens.astype(np.int32)[:, None])
    hidden = model.hidden(engine.weights, ids, cache=cache, last=1)[:, -1]
    return model.backend.numpy(hidden), model.backend.numpy(model.logits(engine.weights, hidden))


def _directions(hidden: np.ndarray) -> np.ndarray:
    """Rows (N, d) of length 1."""
    return hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)
