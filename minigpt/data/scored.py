"""Rows for models that score: whole answers side by side, each with the places at which it gets a score.

A batch has `ids`, `segments` (B, T) and `ends` (B, S, T), which is 1 at the token of each score: a real one, never
padding. Every token of an answer up to there is read, as no next one is predicted.
"""

from collections.abc import Callable, Sequence

import numpy as np

from minigpt.data.batches import Batch, pack, stream
from minigpt.data.shards import MemoryShard
from minigpt.text.tokenizer import Tokenizer

Piece = tuple[np.ndarray, np.ndarray]  # token ids (T,), and the places of the scores among them (S,)

WRONG, RIGHT = 1, 2  # what a mask has at the end of a step


# What makes a good answer (T,) worse, for a place in it, any token, and a good answer to another prompt.
SPOILS: dict[str, Callable[[np.ndarray, int, int, np.ndarray], np.ndarray]] = {
    "nothing": lambda answer, place, token, other: answer[:0],
    "cut short": lambda answer, place, token, other: answer[:place],
    "another token": lambda answer, place, token, other: np.concatenate([answer[:place], [token], answer[place + 1 :]]),
    "of another prompt": lambda answer, place, token, other: other,
}


class _ScoreRows:
    """Rows of `length` tokens filled with examples of `group` sequences each, of which the first `read` are scored."""

    group = read = width = 1

    def __init__(self, shard: MemoryShard, context: int, seed: int):
        self.shard, self.context, self.length = shard, context, self.width * context
        self.pieces = self._examples(range(0, len(shard), self.group))
        sizes = np.array([sum(len(ids) for ids, _ in pieces) for pieces in self.pieces], np.int64)
        self.rows = pack(sizes, stream(seed, "packing", 0).permutation(len(sizes)), self.length)
        self.count = len(self.rows)
        self.most = max(sum(len(ends) for i in row for _, ends in self.pieces[i]) for row in self.rows)

    def _examples(self, firsts: Sequence[int]) -> list[list[Piece]]:
        """What is scored of each example, whose sequences begin with `firsts`."""
        return [[self._piece(first + n) for n in range(self.read)] for first in firsts]

    def _piece(self, sequence: int) -> Piece:
        ids, mask = self.shard.sequence(sequence)
        return self._up_to_the_last(ids, self._places(np.flatnonzero(mask)))

    def _up_to_the_last(self, ids: np.ndarray, places: np.ndarray) -> Piece:
        """The front of what is longer than the context is dropped."""
        stop = int(places[-1]) + 1
        start = max(0, stop - self.context)
        return np.asarray(ids[start:stop], np.int32), places[places >= start] - start

    def _places(self, marked: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def row(self, epoch: int, i: int) -> Batch:
        ids, segments = np.zeros(self.length, np.int32), np.full(self.length, -1, np.int32)
        ends = np.zeros((self.most, self.length), np.float32)
        place = slot = 0
        for segment, (piece, places) in enumerate(p for example in self.rows[i] for p in self.pieces[example]):
            ids[place : place + len(piece)] = piece
            segments[place : place + len(piece)] = segment
            ends[np.arange(slot, slot + len(places)), place + places] = 1.0
            place, slot = place + len(piece), slot + len(places)
        return {"ids": ids, "segments": segments, "ends": ends}


class PairScores(_ScoreRows):
    """Preference pairs: of three sequences the chosen and the rejected answer, scored at their last own token.

    `weights` (B, P) counts the pairs, `margins` (B, P) say how much better the chosen answer is, where that is known.
    A share `spoiled` of the pairs comes once more, with the chosen answer made worse as the rejected one (`SPOILS`).
    """

    group, read, width = 3, 2, 2

    def __init__(
        self, shard: MemoryShard, context: int, seed: int, margins: np.ndarray | None = None, spoiled: float = 0.0
    ):
        self._share, self._drawn = spoiled, stream(seed, "spoiled", 0)
        self._tokens = int(shard.ids.max()) + 1 if spoiled else 0
        super().__init__(shard, context, seed)
        self.margins = np.zeros(len(self.pieces), np.float32)
        if margins is not None:
            self.margins[: len(margins)] = margins

    def _examples(self, firsts: Sequence[int]) -> list[list[Piece]]:
        order = self._drawn.permutation(firsts).tolist()[: round(self._share * len(firsts))]
        pairs = zip(order, np.roll(order, 1), strict=True)
        again = [(first, other) for first, other in pairs if self._parts(first)[1].size]
        return super()._examples(firsts) + [[self._piece(first), self._spoiled(first, other)] for first, other in again]

    def _parts(self, sequence: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens before an answer, the answer's, and its end."""
        ids, mask = self.shard.sequence(sequence)
        start, end = np.flatnonzero(mask)[[0, -1]]
        return ids[:start], ids[start:end], ids[end : end + 1]

    def _spoiled(self, first: int, other: int) -> Piece:
        (before, answer, end), (_, another, _) = self._parts(first), self._parts(other)
        spoil = tuple(SPOILS.values())[self._drawn.integers(len(SPOILS))]
        place, token = (int(self._drawn.integers(most)) for most in (len(answer), self._tokens))
        found = np.concatenate([before, spoil(answer, place, token, another), end])
        return self._up_to_the_last(found, np.array([len(found) - 1]))

    def _places(self, marked: np.ndarray) -> np.ndarray:
        return marked[-1:]  # a chat template may write a line break after it, which no sampled answer has

    def row(self, epoch: int, i: int) -> Batch:
        pairs, most = self.rows[i], self.most // 2
        margins = np.zeros(most, np.float32)
        margins[: len(pairs)] = self.margins[pairs]
        weights = (np.arange(most) < len(pairs)).astype(np.float32)
        return super().row(epoch, i) | {"weights": weights, "margins": margins}


class StepScores(_ScoreRows):
    """Answers in steps, scored at the end of each; `labels` and `weights` (B, S)."""

    def __init__(self, shard: MemoryShard, context: int, seed: int):
        super().__init__(shard, context, seed)
        self.labels = [self._labels(i) for i in range(len(shard))]

    def _places(self, marked: np.ndarray) -> np.ndarray:
        return marked

    def _labels(self, sequence: int) -> np.ndarray:
        mask = np.asarray(self.shard.sequence(sequence)[1])
        return (mask[mask != 0] == RIGHT)[-len(self.pieces[sequence][0][1]) :]

    def row(self, epoch: int, i: int) -> Batch:
        labels, found = np.zeros(self.most, np.float32), np.concatenate([self.labels[n] for n in self.rows[i]])
        labels[: len(found)] = found
        weights = (np.arange(self.most) < len(found)).astype(np.float32)
        return super().row(epoch, i) | {"weights": weights, "labels": labels}


def line_ends(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The place among `ids` of the last token of each line that is not blank; control tokens are no text."""
    pieces = [tokenizer.bytes_of(int(token)) for token in ids]
    stops = np.cumsum([len(piece) for piece in pieces])  # (T,): bytes up to the end of each token
    found, place = [], 0
    for line in b"".join(pieces).split(b"\n"):
        if line.strip():
            last = place + len(line.rstrip()) - 1  # its last byte
            found.append(int(np.searchsorted(stops, last, side="right")))
        place += len(line) + 1
    return found
