"""The key/value cache: what attention needs of the tokens that were already computed."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.base import Array, Backend
from backends.tree import leaves, map_leaves
from minigpt.errors import UsageError
from minigpt.model.before import reaches_back
from minigpt.sections import ModelConfig


def new_cache(backend: Backend, config: ModelConfig, batch: int, capacity: int, dtype: str, bits: int = 0) -> "KVCache":
    """An empty cache for `capacity` tokens in each of `batch` rows; with `bits` 4 or 8 a quantized one."""
    if bits == 0:
        return KVCache(backend, config, batch, capacity, dtype)
    return QuantizedKVCache(backend, config, batch, capacity, dtype, bits)


def check_cache_bits(config: ModelConfig, bits: int) -> None:
    """Raises UsageError when keys and values cannot be kept in `bits` bits (0: as they are)."""
    if bits not in (0, 4, 8):
        raise UsageError(f"Keys and values cannot be kept in {bits} bits.", "Choose --kv-bits 4 or 8.")
    if bits and config.head_dim % 8:
        message = f"Keys of {config.head_dim} numbers (model.head_dim) do not fill whole words."
        raise UsageError(message, "Omit --kv-bits.")


def joined(caches: "Sequence[KVCache]", order: np.ndarray, capacity: int) -> "KVCache":
    """One cache for `capacity` tokens with the rows of all; its row i was number order[i] of them, counted through."""
    backend, rows = caches[0].backend, caches[0].backend.array(order)

    def roomy(x: Array) -> Array:
        room = (*x.shape[:2], capacity - x.shape[2], x.shape[3])
        return backend.concat([x, backend.zeros(room, backend.dtype(x))], 2)

    def together(*leaves: Array) -> Array:
        return backend.take(backend.concat([roomy(x) for x in leaves], 0), rows)  # (B, K, capacity, …)

    whole = copy.copy(caches[0])
    whole.batch = whole.rows = len(order)
    whole.capacity = capacity
    whole.keys = map_leaves(together, *(cache.keys for cache in caches))
    whole.values = map_leaves(together, *(cache.values for cache in caches))
    whole.inputs = map_leaves(together, *(cache.inputs for cache in caches))
    whole.length = np.concatenate([cache.lengths for cache in caches])[order]
    return whole


class KVCache:
    """Keys and values (S, K, capacity, D) per layer, and what attention reads (S, 1, capacity, d) where that is also of
    the tokens before. Row b's tokens stand at places 0 … `lengths[b]` - 1.

    What stands after them is not seen, and is written over by the row's next tokens. A pass is over the first
    `batch` of the S = `rows` rows.
    """

    def __init__(self, backend: Backend, config: ModelConfig, batch: int, capacity: int, dtype: str):
        self.backend, self.capacity, self.dtype = backend, capacity, dtype
        self.batch = self.rows = batch
        self.fixed = 0  # if not 0, every pass looks at so many places, and more than a row has are hidden
        self.length = 0
        self.keys, self.values = ([self._empty(config) for _ in range(config.depth)] for _ in range(2))
        kept = config.depth if reaches_back(config) else 0
        self.inputs = [backend.zeros((batch, 1, capacity, config.d_model), dtype) for _ in range(kept)]

    @property
    def length(self) -> int | np.ndarray:
        """Tokens that are kept: one number, or (B,) int32 where the rows differ. May be set, to cut rows back."""
        return self._length

    @length.setter
    def length(self, length: int | np.ndarray) -> None:
        if not isinstance(length, int) and (length == length[0]).all() and not self.fixed:
            length = int(length[0])
        self._length = length
        self.longest = length if isinstance(length, int) else int(length.max())  # tokens of the longest row
        self.longest = max(self.longest, self.fixed)
        self.start = length if isinstance(length, int) else self.backend.array(length)  # of the next token

    @property
    def lengths(self) -> np.ndarray:
        """(B,) int32: the tokens that are kept of each row."""
        return np.broadcast_to(np.int32(self.length), (self.batch,))

    def advance(self, tokens: int | Sequence[int]) -> None:
        """Count in what every layer was given by `extend`: so many tokens of all rows, or of each row."""
        self.length = self.length + (tokens if isinstance(tokens, int) else np.asarray(tokens, np.int32))

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Store k, v (B, K, T, D) after what is there; returns all of them (B, K, longest + T, D).

        The model calls `advance` after the last layer.
        """
        return self._extended(self.keys, layer, k), self._extended(self.values, layer, v)

    def remember(self, layer: int, x: Array) -> Array:
        """Store a layer's input x (B, T, d) after what is there; returns all of them (B, longest + T, d)."""
        return KVCache._extended(self, self.inputs, layer, x[:, None])[:, 0]

    def grow(self, rows: int, capacity: int, most: int) -> None:
        """Make room for at least so many rows of so many tokens; doubled where there is too little, to copy rarely.

        More than `most` tokens are not made room for without need.
        """
        if rows <= self.rows and capacity <= self.capacity:
            return
        asked = zip((self.rows, self.capacity), (rows, capacity), (2 * rows, most), strict=True)
        wanted = [old if old >= new else max(new, min(2 * old, bound)) for old, new, bound in asked]

        def larger(x: Array) -> Array:
            room = self.backend.zeros((wanted[0], x.shape[1], wanted[1], x.shape[3]), self.backend.dtype(x))
            room[: x.shape[0], :, : x.shape[2]] = x
            return room

        all_kept = (self.keys, self.values, self.inputs)
        self.keys, self.values, self.inputs = (map_leaves(larger, kept) for kept in all_kept)
        self.rows, self.capacity = wanted

    def copy_row(self, source: "KVCache", number: int, row: int) -> None:
        """Row `number` of another cache, or of this one, as this one's row `row`; its length is the caller's to set."""
        tokens = int(source.lengths[number])
        for mine, other in zip(self._leaves, source._leaves, strict=True):
            mine[row : row + 1, :, :tokens] = other[number : number + 1, :, :tokens]

    def cut(self, row: int, start: int, stop: int) -> list[Array]:
        """A copy of a row's tokens from `start` to `stop`: arrays (1, K, stop - start, …), to be given to `fill`."""
        number = self.backend.array(np.array([row], np.int32))  # taking copies: a slice would keep the whole array
        return [self.backend.take(leaf[:, :, start:stop], number) for leaf in self._leaves]

    def fill(self, row: int, start: int, piece: Sequence[Array], tokens: int) -> None:
        """The first `tokens` of what was cut, at the places from `start`; the row's length is the caller's to set."""
        for leaf, some in zip(self._leaves, piece, strict=True):
            leaf[row : row + 1, :, start : start + tokens] = some[:, :, :tokens]

    @property
    def token_bytes(self) -> int:
        """Memory of one token of one row."""
        sizes = {"float32": 4, "int32": 4, "bfloat16": 2, "float16": 2}
        return sum(x.shape[1] * x.shape[3] * sizes[self.backend.dtype(x)] for x in self._leaves)

    @property
    def _leaves(self) -> list[Array]:
        return leaves([self.keys, self.values, self.inputs])

    def _empty(self, config: ModelConfig) -> Any:
        return self.backend.zeros((self.batch, config.n_kv_head, self.capacity, config.head_dim), self.dtype)

    def _extended(self, stored: list[Any], layer: int, x: Array) -> Array:
        stop = self._stop(x)
        stored[layer] = self.backend.write(stored[layer], self.start, x)
        return stored[layer][: self.batch, :, :stop]

    def _stop(self, x: Array) -> int:
        stop = self.longest + x.shape[2]
        assert stop <= self.capacity, (stop, self.capacity)
        return stop


class QuantizedKVCache(KVCache):
    """Like KVCache with each key and value in groups of `bits`-bit codes (see `backends.quantized`).

    A layer's keys and values are unpacked when it attends to them; only one layer's are there in floats.
    """

    def __init__(self, backend: Backend, config: ModelConfig, batch: int, capacity: int, dtype: str, bits: int):
        self.bits = bits
        self.group_size = next(size for size in (64, 32, 16, 8) if config.head_dim % size == 0)
        super().__init__(backend, config, batch, capacity, dtype)

    def _empty(self, config: ModelConfig) -> list[Array]:
        width = config.head_dim
        steps = (width // self.group_size, "float16")  # scales, and biases
        kinds = ((width * self.bits // 32, "int32"), steps, steps)
        return [self.backend.zeros((self.batch, config.n_kv_head, self.capacity, n), kind) for n, kind in kinds]

    def _extended(self, stored: list[Any], layer: int, x: Array) -> Array:
        backend, stop = self.backend, self._stop(x)
        leaves = backend.quantized.quantize(backend.cast(x, "float32"), self.bits, self.group_size)
        stored[layer] = [
            backend.write(old, self.start, backend.cast(new, backend.dtype(old)))
            for old, new in zip(stored[layer], leaves, strict=True)
        ]
        packed, *steps = (leaf[: self.batch, :, :stop] for leaf in stored[layer])
        return backend.quantized.dequantize(packed, *(backend.cast(step, self.dtype) for step in steps), self.bits)
