"""Beam search: the likeliest whole answers that a search of bounded width finds (Graves 2012), not token by token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minigpt.errors import UsageError
from minigpt.generate.cache import KVCache, joined
from minigpt.generate.penalties import penalized
from minigpt.generate.reading import read_on, start_reading
from minigpt.generate.request import Answer, Request
from minigpt.generate.sampling import log_softmax

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine


@dataclass(frozen=True)
class Beam:
    """An answer, and the sum of its tokens' log-probabilities; once it has ended divided by length ** length_penalty.
    """

    ids: list[int]  # with the stop token
    score: float


def beam_search(
    engine: "Engine", request: Request, beams: int, length_penalty: float = 1.0, early_stopping: bool = False
) -> list[tuple[Answer, float]]:
    """The best answers with their scores, at most `beams`, the best first.

    Each step keeps the `beams` likeliest of all continuations. A length penalty above 0 favours long answers, below 0
    short ones. The search ends when no running beam can beat the worst of `beams` answers as if it ended now, or, with
    `early_stopping`, as soon as there are so many. The rules are those of transformers, so that its beams are the same.
    Of the request's settings the penalties count. Raises UsageError for less than one beam, and for wishes that beams
    do not have.
    """
    _check(request, beams)
    stops, prompt = engine.tokenizer.stops, list(request.prompt)
    most = min(request.max_tokens, engine.model.config.context - len(prompt))
    running, finished = [Beam([], 0.0)], list[Beam]()
    with engine.model.backend.inference():
        scores, cache = _read(engine, prompt)
        for length in range(1, most + 1):
            options = _continuations(request, scores, running, max(2, 1 + len(stops)) * beams)
            ended = [one.ids[-1] in stops or length == most for _, one in options]
            finished += [
                Beam(one.ids, one.score / length**length_penalty)
                for (_, one), end in zip(options[:beams], ended, strict=False)
                if end
            ]
            finished = sorted(finished, key=lambda one: -one.score)[:beams]
            going = [option for option, end in zip(options, ended, strict=True) if not end][:beams]
            if not going or _over(finished, going[0][1].score / length**length_penalty, beams, early_stopping):
                break
            running = [one for _, one in going]
            cache = joined([cache], np.array([row for row, _ in going]), len(prompt) + length)
            scores = _next(engine, cache, [one.ids[-1] for one in running])
    return [(_answer(engine, one, request), one.score) for one in finished]


def _continuations(request: Request, scores: np.ndarray, running: list[Beam], count: int) -> list[tuple[int, Beam]]:
    """The `count` likeliest (row, beam with one more token) of all running beams with scores (B, V)."""
    shares = log_softmax(scores.astype(np.float64))  # (B, V)
    if request.sampling.penalizes:
        for row, beam in enumerate(running):
            penalized(shares[row], request.sampling, [*request.prompt, *beam.ids], len(beam.ids))
    total = (shares + np.array([beam.score for beam in running])[:, None]).reshape(-1)
    best = np.argsort(-total, kind="stable")[:count]
    rows, tokens = np.divmod(best, shares.shape[1])
    return [
        (int(row), Beam([*running[row].ids, int(token)], float(total[place])))
        for row, token, place in zip(rows, tokens, best, strict=True)
        if total[place] > -np.inf
    ]


def _over(finished: list[Beam], possible: float, beams: int, early_stopping: bool) -> bool:
    """Whether the search may end: enough answers, and the best running beam would score no more than the worst."""
    return len(finished) == beams and (early_stopping or possible <= finished[-1].score)


def _read(engine: "Engine", prompt: list[int]) -> tuple[np.ndarray, KVCache]:
    """Logits (1, V) after the prompt, and its cache."""
    reading = start_reading(engine, [prompt], [[]])
    return engine.model.backend.numpy(read_on(engine, reading, len(prompt))), reading.cache


def _next(engine: "Engine", cache: KVCache, tokens: list[int]) -> np.ndarray:
    """Logits (B, V) after one more token of each row."""
    model = engine.model
    ids = model.backend.array(np.array(tokens, np.int32)[:, None])
    hidden = model.hidden(engine.weights, ids, cache=cache, last=1)
    return model.backend.numpy(model.logits(engine.weights, hidden[:, -1]))


def _answer(engine: "Engine", beam: Beam, request: Request) -> Answer:
    stop = beam.ids[-1] if beam.ids[-1] in engine.tokenizer.stops else None
    ids = beam.ids if stop is None else beam.ids[:-1]
    cut = "length" if len(ids) >= request.max_tokens else "context"
    return Answer(ids, engine.tokenizer.decode(ids), cut if stop is None else "stop", stop)


def _check(request: Request, beams: int) -> None:
    if beams < 1:
        raise UsageError(f"There cannot be {beams} beams.", "It must be 1 or more.")
    if request.constraint or request.stops or request.speculation or request.logprobs is not None:
        hint = "Omit stop texts, log-probabilities, constraints and draft tokens, or the beams."
        raise UsageError("Beam search compares whole answers, and has no wishes for single tokens.", hint)
