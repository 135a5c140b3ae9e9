"""Rows that decode together: each has its own length, and may join or leave between two passes."""

import numpy as np

from backends.base import Array
from backends.tree import Tree
from minigpt.generate.cache import KVCache, joined
from minigpt.generate.request import Sequence
from minigpt.model.gpt import GPT

ROOM = 512  # tokens of a row from which the cache is made larger when they are needed, not at once


class Batch:
    """The rows, in the order of their cache's rows. All but the last token of a row's text stand in the cache.

    With `shape`, the rows and the places of a pass, all passes have that one; what is too much counts for nothing.
    """

    def __init__(self, model: GPT, weights: Tree, shape: tuple[int, int] = (1, 0)):
        self.model, self.weights, self.shape = model, weights, shape
        self.rows: list[Sequence] = []
        self.cache: KVCache | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all rows that the cache holds."""
        cache = self.cache  # another thread may ask, while the last row leaves
        return 0 if cache is None else int(cache.lengths[: len(self.rows)].sum())

    def join(self, new: list[tuple[Sequence, KVCache, int]]) -> None:
        """Sequences, each with the cache that holds its text but for the last token, and its row there."""
        if not new:
            return
        caches = list({id(cache): cache for _, cache, _ in new}.values())
        first = len(self.rows)
        lengths = [] if self.cache is None else list(self.cache.lengths[:first])
        lengths += [cache.lengths[number] for _, cache, number in new]
        self.rows += [sequence for sequence, _, _ in new]
        if self.cache is None:
            starts = dict(zip(map(id, caches), np.cumsum([0, *(cache.batch for cache in caches)]), strict=False))
            order = np.array([starts[id(cache)] + number for _, cache, number in new])
            whole = len(caches) == 1 and order.tolist() == list(range(caches[0].batch))
            self.cache = caches[0] if whole else joined(caches, order, max(cache.capacity for cache in caches))
        else:
            self.cache.grow(len(self.rows), max(cache.capacity for cache in caches), self.model.config.context)
            for row, (_, cache, number) in enumerate(new, first):
                self.cache.copy_row(cache, number, row)
        self._set_lengths(lengths)

    def leave(self, sequence: Sequence) -> None:
        """Take a row out; the last one takes its place."""
        row, last = self.rows.index(sequence), len(self.rows) - 1
        lengths = list(self.cache.lengths[: last + 1])
        if last == 0:
            self.rows, self.cache = [], None  # with the memory
            return
        if row != last:
            self.cache.copy_row(self.cache, last, row)
            self.rows[row], lengths[row] = self.rows[last], lengths[last]
        self.rows.pop()
        self._set_lengths(lengths[:-1])

    def logits(self, ids: Array | None = None) -> Array:
        """(B, V) after the last tokens of all rows, (B, 1) where they are not known on the host yet."""
        if ids is None:
            ids = self._ids([[row.seen[-1]] for row in self.rows], 1)
        elif missing := self._width - ids.shape[0]:
            ids = self.model.backend.concat([ids, self._ids([], 1)[:missing]], 0)
        self._room(1)
        hidden = self.model.hidden(self.weights, ids, cache=self.cache, last=1)
        if self._width > len(self.rows):  # the filling has grown, too
            self._set_lengths(list(self.cache.lengths[: len(self.rows)]))
        return self.model.logits(self.weights, hidden[:, -1])[: len(self.rows)]

    def checked(self, drafts: list[list[int]]) -> Array:
        """Logits (B, T, V) after the last token of each row and each of its draft tokens; `keep` must follow."""
        width = 1 + max(map(len, drafts))
        ids = self._ids([[row.seen[-1], *draft] for row, draft in zip(self.rows, drafts, strict=True)], width)
        self._room(width)
        return self.model.logits(self.weights, self.model.hidden(self.weights, ids, cache=self.cache))

    def keep(self) -> None:
        """Forget the keys of wrong draft tokens: the next pass writes over them."""
        self._set_lengths([len(row.seen) - 1 for row in self.rows])

    def _ids(self, rows: list[list[int]], width: int) -> Array:
        rows = rows + [[0]] * (self._width - len(rows))
        return self.model.backend.array(np.array([row + [0] * (width - len(row)) for row in rows], np.int32))

    @property
    def _width(self) -> int:
        return max(len(self.rows), self.shape[0])

    def _room(self, width: int) -> None:
        """Make the cache large enough for a pass; up to ROOM tokens at once, if they may be needed."""
        wanted = min(max(len(row.seen) + row.remaining for row in self.rows), ROOM)
        self.cache.grow(self._width, max(self.cache.longest + width, wanted), self.model.config.context)

    def _set_lengths(self, lengths: list[int]) -> None:
        self.cache.batch, self.cache.fixed = self._width, self.shape[1]
        self.cache.length = np.array(lengths + [0] * (self._width - len(lengths)), np.int32)
