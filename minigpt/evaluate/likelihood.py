"""How likely a model finds a continuation: what multiple-choice tests, minimal pairs and confidences are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minigpt.errors import DataError
from minigpt.generate.engine import Engine

ROUND = 32  # rows are as long as a multiple of this, so that few shapes occur
LOGITS = 1 << 24  # numbers that exist at once, at most


@dataclass(frozen=True)
class Likelihood:
    """log p(continuation | context) in nats, whether greedy decoding would write it, and its tokens that count."""

    logprob: float
    greedy: bool
    tokens: int


def likelihoods(engine: Engine, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Likelihood]:
    """The likelihood of each (context, continuation), both as ids.

    What does not fit the model's context loses its beginning, as in EleutherAI's harness. Raises DataError for a
    pair without a context or a continuation.
    """
    room, found = engine.model.config.context, [Likelihood(0.0, True, 0)] * len(pairs)
    for number, (context, continuation) in enumerate(pairs):
        if not context or not continuation:
            raise DataError(f"Pair {number} has no {'continuation' if context else 'context'}.")
    whole = [(context + continuation)[-(room + 1) :] for context, continuation in pairs]
    order = sorted(range(len(pairs)), key=lambda i: -len(whole[i]))
    while order:
        width = min(room, -(-(len(whole[order[0]]) - 1) // ROUND) * ROUND)
        size = max(1, LOGITS // (width * engine.model.config.vocab_size))
        chosen, order = order[:size], order[size:]
        logprobs, best = _scored(engine, [whole[i] for i in chosen], width)
        for row, i in enumerate(chosen):
            last = len(whole[i]) - 1
            first = max(0, last - len(pairs[i][1]))
            logprob = float(logprobs[row, first:last].sum(dtype=np.float64))
            found[i] = Likelihood(logprob, bool(best[row, first:last].all()), last - first)
    return found


def _scored(engine: Engine, rows: Sequence[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(log p of each next token (B, width), whether it is the likeliest one (B, width)) of rows of ids."""
    backend, model = engine.model.backend, engine.model
    ids = np.zeros((len(rows), width + 1), np.int32)
    for row, one in zip(ids, rows, strict=True):
        row[: len(one)] = one
    targets = ids[:, 1:]
    with backend.inference():
        logits = model(engine.weights, backend.array(ids[:, :-1]))  # (B, T, V)
        nats = backend.numpy(backend.token_nll(logits, backend.array(targets)))
        best = backend.numpy(backend.argmax(logits, -1))
    return -nats, best == targets


def split_ids(engine: Engine, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """(ids of the context, of the continuation) as they are in the ids of the whole text.

    Spaces at the context's end belong to the continuation, as they do in training; an empty context is the token that
    begins a document. The harness does the same.
    """
    if not context:
        return [engine.tokenizer.end_of_text], engine.tokenizer.encode(continuation)
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before = engine.tokenizer.encode(context) or [engine.tokenizer.end_of_text]
    whole = engine.tokenizer.encode(context + continuation)
    return before, whole[len(before) :] if context else whole
