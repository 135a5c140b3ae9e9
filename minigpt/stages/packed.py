"""Sampled answers as the rows of a batch: a prompt stands in a row once, and all answers in the row go on from it.

A token sees what it would see in a row of its own, at the same positions: log-probabilities and gradients are the same.
What is saved is the filling of short rows up to the longest, and reading a prompt again for each of its answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minigpt.data.batches import Batch, pack
from minigpt.generate.engine import Answer
from minigpt.model.before import reaches_back
from minigpt.model.gpt import GPT
from minigpt.sections import ModelConfig

WIDTHS = {"cpu": 16, "gpu": 64}  # rows are filled up to a multiple: few shapes to compile, but little filling
READ = ("ids", "targets", "mask", "segments", "follows", "positions")  # what a reading of sampled answers needs of them


def laid_out(prompts: list[list[int]], answers: list[Answer]) -> Batch:
    """Each prompt with its answer in a row of its own: `ids`, `targets` and `mask` (N, T), which is 1 on the answer and
    its end. Nothing that is read of a row depends on the filling after it.
    """
    said = [answer.tokens for answer in answers]
    longest = max(len(prompt) + len(row) for prompt, row in zip(prompts, said, strict=True)) - 1
    shape = (len(said), longest)
    ids, targets, mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for n, (prompt, row) in enumerate(zip(prompts, said, strict=True)):
        whole, last = prompt + row, len(prompt) + len(row) - 1
        ids[n, :last], targets[n, :last] = whole[:-1], whole[1:]
        mask[n, len(prompt) - 1 : last] = 1.0
    return {"ids": ids, "targets": targets, "mask": mask}


def once(single: Batch, together: int) -> Batch:
    """Of answers to a prompt that are the same, with the same advantages, the first, with the weights of all of them:
    losses and metrics are linear in `weights` and `shares`. The others get a mask of 0.

    A model that is sure of its answers gives many of them twice.
    """
    added, first = {name: single[name].copy() for name in ("mask", "weights", "shares")}, {}
    for n in range(len(single["mask"])):
        alike = n // together, *(x[n].tobytes() for name, x in single.items() if name not in ("weights", "shares"))
        if (known := first.setdefault(alike, n)) != n:
            for name in ("weights", "shares"):
                added[name][known] += added[name][n]
            for x in added.values():
                x[n] = 0
    return single | added


@dataclass(frozen=True)
class Packed:
    """Where the tokens of N rows of T tokens, one an answer, stand in R rows of W tokens.

    `source` (R, W) counts the tokens of the single rows through; -1 where nothing stands. `segments`, `follows` (R, W)
    are as in `Backend.visible`; without `follows` no prompt is shared. `held` has the answers of each packed row.
    """

    shape: tuple[int, int]  # (N, T)
    source: np.ndarray
    segments: np.ndarray
    follows: np.ndarray | None
    held: list[list[int]]

    def rows(self, single: Batch) -> Batch:
        """The packed rows of arrays (N, T), and what the model is told of them."""
        told = {"segments": self.segments}
        if self.follows is not None:
            places = np.where(self.source >= 0, self.source % self.shape[1], 0)
            told |= {"follows": self.follows, "positions": places.astype(np.int32)}
        return {name: self.of(values) for name, values in single.items()} | told

    def of(self, values: np.ndarray) -> np.ndarray:
        """(N, T) as (R, W), with 0 where nothing stands."""
        found = np.where(self.source >= 0, values.reshape(-1)[self.source], 0)
        return found.astype(values.dtype)

    def back(self, found: np.ndarray) -> np.ndarray:
        """What was computed of the packed rows (R, W, …) as (N, T, …); 0 for what stands nowhere, or with another."""
        single = np.zeros((self.shape[0] * self.shape[1], *found.shape[2:]), found.dtype)
        there = self.source >= 0
        single[self.source[there]] = found[there]
        return single.reshape(*self.shape, *found.shape[2:])


def packed(model: GPT, single: Batch, together: int = 1, pairs: bool = False) -> Packed:
    """The packing of rows that `laid_out` made; each `together` following ones have the same prompt. Answers whose mask
    is 0 everywhere are omitted.

    A packed row is at most as long as the context, which is what a row is planned with, and at least one answer is in
    it. With `pairs` both answers of a pair are in the same row, which may be twice as long.
    """
    mask, limit = single["mask"] > 0, (2 if pairs else 1) * max(model.config.context, single["mask"].shape[1])
    starts, sizes = mask.argmax(axis=1), _sizes(mask)  # (N,): where an answer goes on from its prompt, where it ends
    shares = together > 1 and can_share(model.config)
    groups = [[n for n in range(first, first + together) if sizes[n]] for first in range(0, len(mask), together)]
    groups = [group for group in groups if group]
    if not pairs:  # what must not stay in one row
        groups = [part for group in groups for part in _within(group, starts, sizes, limit if shares else 0)]
    pieces = [_pieces(group, starts, sizes, shares) for group in groups]
    lengths = np.array([sum(stop - start for _, start, stop in some) for some in pieces], np.int64)
    width, rows = _cheapest(model, lengths, limit)
    rows += [[] for _ in range(_count(model, len(rows), len(mask) // (2 if pairs else 1)) - len(rows))]
    source, segments, follows = _places([[pieces[i] for i in some] for some in rows], width, mask.shape[1])
    held = [[n for i in some for n in groups[i]] for some in rows]
    return Packed(mask.shape, source, segments, follows if shares else None, held)


def _places(rows: list[list[list[tuple[int, int, int]]]], width: int, tokens: int) -> tuple[np.ndarray, ...]:
    """`source`, `segments` and `follows` (R, W) of the rows' groups of pieces; the first piece of a group is what its
    others follow.
    """
    source = np.full((len(rows), width), -1, np.int64)
    segments, follows = np.full(source.shape, -1, np.int32), np.full(source.shape, -1, np.int32)
    for row, groups in enumerate(rows):
        place = segment = 0
        for group in groups:
            first = segment
            for n, start, stop in group:
                here = slice(place, place + stop - start)
                source[row, here] = n * tokens + np.arange(start, stop)
                segments[row, here], follows[row, here] = segment, first
                place, segment = here.stop, segment + 1
    return source, segments, follows


def can_share(config: ModelConfig) -> bool:
    """Whether a token depends on those before it through attention and positions alone, so that several answers may go
    on from one prompt. Others read their neighbours in the row, or choose experts by all tokens of it.
    """
    return not (reaches_back(config) or config.predict_ahead or config.experts)


def _sizes(mask: np.ndarray) -> np.ndarray:
    """(N,) tokens of each row up to the last one that counts; 0 where none does."""
    return np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 0)


def _within(group: list[int], starts: np.ndarray, sizes: np.ndarray, limit: int) -> Iterator[list[int]]:
    """The answers to one prompt in parts of at most `limit` tokens, the prompt counted."""
    part, room = [], 0
    for n in group:
        if part and sizes[n] - starts[n] > room:
            yield part
            part = []
        room = limit - sizes[n] if not part else room - (sizes[n] - starts[n])
        part.append(n)
    yield part


def _pieces(group: list[int], starts: np.ndarray, sizes: np.ndarray, shares: bool) -> list[tuple[int, int, int]]:
    """(row, start, stop) of what stands one after the other, each a segment: the prompt up to its last token, and what
    goes on from there; or each row whole.
    """
    if not shares:
        return [(n, 0, sizes[n]) for n in group]
    opening = [(group[0], 0, starts[group[0]])]
    return [*opening, *((n, starts[n], sizes[n]) for n in group)]


def _count(model: GPT, rows: int, most: int) -> int:
    """How many rows there are for so many full ones: one for each process at least; on a GPU, where each shape is
    compiled, 1, 2, 3, 4, 6, 8, 12, 16, 24, …, or the `most` that a step is planned with.
    """
    rows = max(rows, model.backend.group.size, 1)
    some = 1 << max(0, rows.bit_length() - 2) if model.backend.device == "gpu" else 1
    return max(rows, min(-(-rows // some) * some, most))


def _cheapest(model: GPT, lengths: np.ndarray, limit: int) -> tuple[int, list[list[int]]]:
    """A width of rows, from the longest piece to `limit`, and which pieces are in each, the longest first: wide rows
    have less filling, and narrow ones less attention. That costs a token of a row of W about W / 2 d of its other work.
    """
    longest, some = int(lengths.max(initial=1)), WIDTHS[model.backend.device]
    order = np.argsort(-lengths, kind="stable")
    if model.config.experts:
        return min(-(-longest // some) * some, limit), [[i] for i in order]
    wide = {min(-(-int(longest * times) // some) * some, limit) for times in (1, 1.5, 2, 3, 4)}
    found = [(width, pack(lengths, order, width)) for width in sorted(wide)]
    shares = model.backend.group.size  # the processes' work is that of the one with most rows

    def cost(one: tuple[int, list[list[int]]]) -> float:
        width, rows = one
        return -(-len(rows) // shares) * width * (1 + width / (2 * model.config.d_model))

    return min(found, key=cost)
