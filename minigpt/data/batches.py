"""From shards to the batches of a step: a pure function of (seed, step), so that resuming needs one integer.

A batch is a dict of NumPy arrays whose first axis is the row: `ids`, `targets` (B, T) and `weights`, which sum
to 1 over the batch; packed rows add `segments` (B, T), pairs add `spans` (B, 2P, T) and `reference` (B, P, 2).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from minigpt.data.shards import Shard
from minigpt.errors import DataError

Batch = dict[str, np.ndarray]
NO_EXAMPLE = {"segments": -1, "follows": -1}  # what a batch has where nothing stands; all else is 0 there


class TextRows:
    """Windows of `length` tokens that cover a text without overlap; each epoch cuts it at another offset."""

    def __init__(self, shard: Shard, length: int, seed: int):
        if len(shard.ids) < length + 1:
            raise DataError(
                f"The text in {shard.directory} has {len(shard.ids)} tokens, fewer than one row of {length} + 1.",
                "Give more text or lower model.context.",
            )
        self.shard, self.length, self.seed = shard, length, seed
        self.count = max(1, (len(shard.ids) - length) // length)

    def row(self, epoch: int, i: int) -> Batch:
        spare = len(self.shard.ids) - 1 - self.count * self.length
        start = int(stream(self.seed, "offset", epoch).integers(0, spare + 1)) + i * self.length
        tokens = np.asarray(self.shard.ids[start : start + self.length + 1], np.int32)
        return {"ids": tokens[:-1], "targets": tokens[1:], "weights": np.ones(self.length, np.float32)}


class ValidationText:
    """Windows that cover the whole text once; the last is filled up with tokens of weight 0."""

    def __init__(self, shard: Shard, length: int):
        self.shard, self.length = shard, length
        self.count = max(1, -(-(len(shard.ids) - 1) // length))

    def row(self, epoch: int, i: int) -> Batch:
        tokens = np.asarray(self.shard.ids[i * self.length : (i + 1) * self.length + 1], np.int32)
        padded = np.zeros(self.length + 1, np.int32)
        padded[: len(tokens)] = tokens
        weights = (np.arange(self.length) < len(tokens) - 1).astype(np.float32)
        return {"ids": padded[:-1], "targets": padded[1:], "weights": weights}


class PackedRows:
    """Rows of `length` tokens filled with whole examples; a token sees its own example only.

    Which examples share a row is decided once; epochs change the order of the rows. Longer examples are cut.
    """

    def __init__(self, shard: Shard, length: int, seed: int):
        assert shard.mask is not None, shard.directory
        self.shard, self.length = shard, length
        starts = np.concatenate([[0], shard.ends[:-1]])
        sizes = np.minimum(shard.ends - starts - 1, length)  # the last token is a target only
        order = stream(seed, "packing", 0).permutation(len(shard))
        self.rows = pack(sizes, order, length)
        self.count = len(self.rows)

    def row(self, epoch: int, i: int) -> Batch:
        batch = empty_row(self.length)
        place = 0
        for segment, example in enumerate(self.rows[i]):
            place += place_example(batch, place, segment, *self.shard.sequence(example))
        return batch


class PairRows:
    """Rows that hold whole preference pairs: sequence 2i of the shard is chosen, 2i + 1 rejected.

    A row has `2 · length` tokens, so that any pair of two answers of `length` fits. `reference` (pairs, 2)
    holds the reference model's summed log-probabilities.
    """

    def __init__(self, shard: Shard, length: int, seed: int, reference: np.ndarray | None = None):
        self.shard, self.length = shard, 2 * length
        starts = np.concatenate([[0], shard.ends[:-1]])
        sizes = (shard.ends - starts - 1).reshape(-1, 2)
        order = stream(seed, "packing", 0).permutation(len(sizes))
        self.rows = pack(sizes.sum(axis=1), order, self.length)
        self.count = len(self.rows)
        self.most = max(len(row) for row in self.rows)
        self.reference = np.zeros((len(sizes), 2), np.float32) if reference is None else reference

    def row(self, epoch: int, i: int) -> Batch:
        held = self.rows[i]
        sequences = [self.shard.sequence(2 * pair + side) for pair in held for side in (0, 1)]
        batch = side_by_side(sequences, self.length, 2 * self.most)
        reference = np.zeros((self.most, 2), np.float32)
        reference[: len(held)] = self.reference[held]
        weights = (np.arange(self.most) < len(held)).astype(np.float32)  # per pair
        return batch | {"weights": weights, "reference": reference}


Rows = TextRows | ValidationText | PackedRows | PairRows


class Batches:
    """`batches(step)` for training: every row once per epoch, in an order that (seed, epoch) decides.

    The weights, which other batches may depend on, do not matter to these.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._order = lru_cache(maxsize=2)(lambda epoch: stream(seed, "order", epoch).permutation(rows.count))

    def __call__(self, step: int, weights: object = None) -> Batch:
        first = step * self.batch_size
        places = [divmod(first + i, self.rows.count) for i in range(self.batch_size)]
        return normalized(stacked([self.rows.row(epoch, int(self._order(epoch)[i])) for epoch, i in places]))


class Ahead:
    """Batches that may be made one step before they are asked for: they are the same, whenever they are made.

    Batches that depend on the weights are not (see StageConfig.needs_weights).
    """

    def __init__(self, batches: Callable[[int, Any], Batch]):
        self._batches = batches
        self._made: dict[int, Batch] = {}

    def __call__(self, step: int, weights: Any = None) -> Batch:
        return self._made.pop(step) if step in self._made else self._batches(step, weights)

    def make(self, step: int) -> None:
        """Have the batch of `step` ready; what was made for another step is let go."""
        self._made = {step: self._batches(step, None)}


class WithDropoutKeys:
    """The same batches with a random int32 `dropout` (B,) per row: a pure function of (seed, step), too."""

    def __init__(self, batches: Callable[[int, Any], Batch], seed: int):
        self._batches, self._seed = batches, seed

    def __call__(self, step: int, weights: Any = None) -> Batch:
        batch = self._batches(step, weights)
        rows = len(batch["ids"])
        keys = stream(self._seed, "dropout", step).integers(-(2**31), 2**31, rows, np.int32)
        return batch | {"dropout": keys}


def in_order(rows: Rows, batch_size: int, limit: int | None = None) -> list[list[int]]:
    """Row numbers of successive evaluation batches: all rows, or `limit` of them spread evenly over all."""
    count = rows.count if limit is None else min(limit, rows.count)
    chosen = [i * rows.count // count for i in range(count)]
    return [chosen[i : i + batch_size] for i in range(0, count, batch_size)]


def stacked(rows: list[Batch]) -> Batch:
    """Rows side by side, weights as they are."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def normalized(batch: Batch) -> Batch:
    """The batch with weights that sum to 1 (or stay 0 where nothing has a weight)."""
    total = batch["weights"].sum(dtype=np.float64)
    return batch | {"weights": (batch["weights"] / (total or 1.0)).astype(np.float32)}


def split(batch: Batch, parts: int) -> list[Batch]:
    """Parts along the rows, as equal as can be; their weights still sum to 1 together."""
    if parts == 1:
        return [batch]
    pieces = {key: np.array_split(values, parts) for key, values in batch.items()}
    return [{key: pieces[key][i] for key in batch} for i in range(parts)]


def filled(batch: Batch, rows: int) -> Batch:
    """The batch with empty rows up to so many: for processes that have none, or fewer than the others.

    Whatever a batch carries to weigh rows, tokens, pairs or figures is 0 in them, so that sums stay what they are.
    """
    missing = rows - len(batch["ids"])
    if missing <= 0:
        return batch
    empty = {key: np.full((missing, *x.shape[1:]), NO_EXAMPLE.get(key, 0), x.dtype) for key, x in batch.items()}
    return {key: np.concatenate([x, empty[key]]) for key, x in batch.items()}


def pack(sizes: np.ndarray, order: np.ndarray, length: int, open_rows: int = 32) -> list[list[int]]:
    """Put items of `sizes` into rows of `length` in the given order; each goes to the first open row it fits.

    Raises DataError for an item longer than a row.
    """
    if len(sizes) and int(sizes.max()) > length:
        message = f"An example of {int(sizes.max())} tokens does not fit a row of {length}."
        raise DataError(message, "Raise model.context.")
    rows: list[list[int]] = []
    bins: list[tuple[list[int], int]] = []  # (items, room left), oldest first
    for item in order.tolist():
        size = int(sizes[item])
        for place, (held, room) in enumerate(bins):
            if size <= room:
                held.append(item)
                bins[place] = (held, room - size)
                break
        else:
            bins.append(([item], length - size))
            rows.append(bins[-1][0])
            if len(bins) > open_rows:
                bins.pop(min(range(len(bins)), key=lambda place: bins[place][1]))
    return rows


def empty_row(length: int) -> Batch:
    return {
        "ids": np.zeros(length, np.int32),
        "targets": np.zeros(length, np.int32),
        "weights": np.zeros(length, np.float32),
        "segments": np.full(length, NO_EXAMPLE["segments"], np.int32),  # the unused tail is a segment of its own
    }


def place_example(batch: Batch, place: int, segment: int, ids: np.ndarray, mask: np.ndarray) -> int:
    """Write one example at `place`; returns the number of positions it took."""
    size = min(len(ids) - 1, len(batch["ids"]) - place)
    here = slice(place, place + size)
    batch["ids"][here] = ids[:size]
    batch["targets"][here] = ids[1 : size + 1]
    batch["weights"][here] = mask[1 : size + 1]
    batch["segments"][here] = segment
    return size


def side_by_side(sequences: Sequence[tuple[np.ndarray, np.ndarray]], length: int, most: int) -> Batch:
    """A row of examples (ids, mask), each a segment; `spans` (most, T) says which tokens of each are learned."""
    row, spans, place = empty_row(length), np.zeros((most, length), np.float32), 0
    for segment, (ids, mask) in enumerate(sequences):
        size = place_example(row, place, segment, ids, mask)
        spans[segment, place : place + size] = row["weights"][place : place + size]
        place += size
    return row | {"spans": spans}


def stream(seed: int, purpose: str, epoch: int) -> np.random.Generator:
    """Random numbers that (seed, purpose, epoch) decide; the first four letters of a purpose tell it from others."""
    return np.random.Generator(np.random.Philox(key=[seed, int.from_bytes(purpose.encode()[:4]) << 32 | epoch]))
