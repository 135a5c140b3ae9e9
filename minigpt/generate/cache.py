"""The key/value cache: what attention needs of the tokens that were already computed."""

import copy
from collections.abc import Sequence

import numpy as np

from backends.base import Array, Backend
from backends.tree import map_leaves
from minigpt.errors import UsageError
from minigpt.sections import ModelConfig


def new_cache(
    backend: Backend, config: ModelConfig, batch: int, capacity: int, dtype: str, bits: int = 0
) -> "KVCache | QuantizedKVCache":
    """An empty cache for `capacity` tokens; with `bits` 4 or 8 a quantized one."""
    if bits == 0:
        return KVCache(backend, config, batch, capacity, dtype)
    return QuantizedKVCache(backend, config, batch, capacity, dtype, bits)


def check_cache_bits(config: ModelConfig, bits: int) -> None:
    """Raises UsageError when keys and values cannot be kept in `bits` bits (0: as they are)."""
    if bits not in (0, 4, 8):
        raise UsageError(f"Keys and values cannot be kept in {bits} bits.", "Choose --kv-bits 4 or 8.")
    if bits and config.head_dim % 8:
        message = f"Keys of {config.head_dim} numbers (model.head_dim) do not fill whole words."
        raise UsageError(message, "Leave --kv-bits out.")


def joined(
    caches: "Sequence[KVCache | QuantizedKVCache]", places: np.ndarray, capacity: int
) -> "KVCache | QuantizedKVCache":
    """One cache for `capacity` tokens with the rows of all, which end at the same place; row i of it was row places[i].

    A cache's tokens begin at its origin: what lies before it is left 0 and must be masked out.
    """
    first, length = caches[0], caches[0].origin + caches[0].length
    assert all(cache.origin + cache.length == length <= capacity for cache in caches), (length, capacity)
    backend, order = first.backend, first.backend.array(places)

    def placed(cache: "KVCache | QuantizedKVCache", x: Array) -> Array:
        before, behind = ((*x.shape[:2], n, x.shape[3]) for n in (cache.origin, capacity - length))
        kind = backend.dtype(x)
        return backend.concat([backend.zeros(before, kind), x[:, :, : cache.length], backend.zeros(behind, kind)], 2)

    def together(*leaves: Array) -> Array:
        rows = [placed(cache, x) for cache, x in zip(caches, leaves, strict=True)]
        return backend.take(backend.concat(rows, 0), order)  # (B, K, capacity, …)

    whole = copy.copy(first)
    whole.origin, whole.length, whole.capacity = 0, length, capacity
    whole.keys = map_leaves(together, *(cache.keys for cache in caches))
    whole.values = map_leaves(together, *(cache.values for cache in caches))
    return whole


class KVCache:
    """Keys and values (B, K, capacity, D) per layer, filled up to `length`.

    `origin` is the rotary position of the first token, for rows that will stand further right in a joined cache.
    """

    origin = 0

    def __init__(self, backend: Backend, config: ModelConfig, batch: int, capacity: int, dtype: str):
        shape = (batch, config.n_kv_head, capacity, config.head_dim)
        self.backend, self.capacity, self.length = backend, capacity, 0
        self.keys = [backend.zeros(shape, dtype) for _ in range(config.n_layer)]
        self.values = [backend.zeros(shape, dtype) for _ in range(config.n_layer)]

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Store k, v (B, K, T, D) after what is there; returns all of them (B, K, length + T, D).

        The model moves `length` on after the last layer.
        """
        stop = self.length + k.shape[2]
        assert stop <= self.capacity, (stop, self.capacity)
        self.keys[layer] = self.backend.write(self.keys[layer], self.length, k)
        self.values[layer] = self.backend.write(self.values[layer], self.length, v)
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]


class QuantizedKVCache:
    """Like KVCache with each key and value in groups of `bits`-bit codes (see `Backend.quantize`).

    A layer's keys and values are unpacked when it attends to them; only one layer's are there in floats.
    """

    origin = 0

    def __init__(self, backend: Backend, config: ModelConfig, batch: int, capacity: int, dtype: str, bits: int):
        self.backend, self.capacity, self.length = backend, capacity, 0
        self.bits, self.dtype = bits, dtype
        width = config.head_dim
        self.group_size = next(size for size in (64, 32, 16, 8) if width % size == 0)
        kinds = (width * bits // 32, "int32"), *[(width // self.group_size, "float16")] * 2  # packed, scales, biases
        self.keys, self.values = (
            [[backend.zeros((batch, config.n_kv_head, capacity, n), kind) for n, kind in kinds]
             for _ in range(config.n_layer)] for _ in range(2)
        )  # fmt: skip

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """As `KVCache.extend`; what is returned was rounded."""
        return self._extended(self.keys, layer, k), self._extended(self.values, layer, v)

    def _extended(self, stored: list[list[Array]], layer: int, x: Array) -> Array:
        backend, stop = self.backend, self.length + x.shape[2]
        assert stop <= self.capacity, (stop, self.capacity)
        parts = backend.quantize(backend.cast(x, "float32"), self.bits, self.group_size)
        stored[layer] = [
            backend.write(old, self.length, backend.cast(new, backend.dtype(old)))
            for old, new in zip(stored[layer], parts, strict=True)
        ]
        packed, *steps = (leaf[:, :, :stop] for leaf in stored[layer])
        return backend.dequantize(packed, *(backend.cast(step, self.dtype) for step in steps), self.bits)
