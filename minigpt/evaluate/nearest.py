"""The training rows that are most like a text: what a model may have its answer from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minigpt.data.shards import MemoryShard

MOST = 20_000_000  # tokens that are looked through


@dataclass(frozen=True)
class Near:
    """A training row's number and its cosine (0 … 1) with what was looked for."""

    row: int
    cosine: float


class Neighbours:
    """The rows of a training shard as tf-idf vectors over token ids (Salton and Buckley 1988)."""

    def __init__(self, shard: MemoryShard, vocab_size: int, first: int = 0):
        """Tokens below `first`, the control tokens, count nothing."""
        ends = np.asarray(shard.ends, np.int64)
        rows = int(np.searchsorted(ends, MOST, "right")) or 1
        ends = ends[:rows]
        ids = np.asarray(shard.ids[: ends[-1]], np.int64)
        owners = np.repeat(np.arange(rows), np.diff(np.concatenate([[0], ends])))
        pairs, counts = np.unique(owners * vocab_size + ids, return_counts=True)
        self._owners, self._ids, self.rows, self._size = pairs // vocab_size, pairs % vocab_size, rows, vocab_size
        self._idf = np.log((1 + rows) / (1 + np.bincount(self._ids, minlength=vocab_size))) + 1  # (V,)
        self._idf[:first] = 0
        self._values = (1 + np.log(counts)) * self._idf[self._ids]
        self._norms = np.sqrt(np.bincount(self._owners, self._values**2, rows))

    def nearest(self, ids: Sequence[int], count: int = 3) -> list[Near]:
        """The rows with the highest cosine with these ids, best first; of equal rows the first one only."""
        present, counts = np.unique(np.asarray(ids, np.int64), return_counts=True)
        query = np.zeros(self._size)
        query[present] = (1 + np.log(counts)) * self._idf[present]
        products = np.bincount(self._owners, self._values * query[self._ids], self.rows)
        cosines = products / np.maximum(self._norms * np.sqrt((query**2).sum()), 1e-12)
        found: list[Near] = []
        for i in np.argsort(-cosines, kind="stable")[: 20 * count]:
            if all(abs(cosines[i] - one.cosine) > 1e-9 for one in found):
                found.append(Near(int(i), float(cosines[i])))
        return found[:count]
