"""Matrices in few bits: the affine layout of mlx.core.quantize.

A row of N weights is cut into groups; a group has a scale and a bias, and weight k is code_k * scale + bias.
32 / bits codes share one 32-bit word, the first in its lowest bits. Here a word is an int32 with these bits.
"""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from backends.tree import Array

if TYPE_CHECKING:
    from backends.base import Backend


class Int8(Protocol):
    """Products of bytes, for answers only, where a processor multiplies them faster than floats."""

    def matrix(self, weight: np.ndarray) -> Any:
        """A float32 matrix (out, in) in 8 bits with one scale per row."""

    def linears(self, x: Array, matrices: list[Any], biases: list[Array | None]) -> list[Array]:
        """`Backend.linears` with each row of x (…, in) rounded to 8 bits, too. It has no gradient."""


class Quantized:
    """Operations on quantized matrices, as formulas; `fast` and `int8` say what is worth using here."""

    fast = False  # whether `linear` is faster than that of floats
    int8: Int8 | None = None  # None where that is no gain

    def __init__(self, backend: "Backend"):
        self.backend = backend

    def quantize(self, x: Array, bits: int, group_size: int) -> tuple[Array, Array, Array]:
        """x (…, N) -> (packed (…, N * bits / 32), scales (…, N / group_size), biases (…, N / group_size)).

        `bits` is 4 or 8 and `group_size` divides N. The largest number of a group, by size, keeps its value, and
        so does 0 in a group with both signs.
        """
        where, cast = self.backend.where, self.backend.cast
        groups = x.reshape(*x.shape[:-1], -1, group_size)
        high, low = self.backend.amax(groups, axis=-1), -self.backend.amax(-groups, axis=-1)
        steps = 2**bits - 1
        scale = (high - low) / steps
        scale = where(scale > 1e-7, scale, 1e-7)
        downwards = abs(low) <= abs(high)  # the codes count from the edge that is further from 0
        scale = where(downwards, -scale, scale)
        edge = where(downwards, high, low)
        count = self._round(edge / scale)
        scale = where(count != 0, edge / where(count != 0, count, 1.0), scale)
        bias = where(count != 0, edge, 0.0 * edge)
        codes = self._round((groups - bias[..., None]) / scale[..., None])
        codes = where(codes < 0, 0.0, where(codes > steps, float(steps), codes))
        words = cast(codes, "int32").reshape(*x.shape[:-1], -1, 32 // bits) << self._shifts(bits)
        return cast(words.sum(axis=-1), "int32"), scale, bias

    def dequantize(self, packed: Array, scales: Array, biases: Array, bits: int) -> Array:
        """What `quantize` packed, (…, N), in the dtype of `scales`."""
        codes = (packed[..., None] >> self._shifts(bits)) & (2**bits - 1)  # (…, words, 32 / bits)
        codes = self.backend.cast(codes, self.backend.dtype(scales)).reshape(*scales.shape, -1)  # (…, groups, size)
        return (codes * scales[..., None] + biases[..., None]).reshape(*packed.shape[:-1], -1)

    def linear(self, x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None) -> Array:
        """x (…, in) times the quantized weight (out, in) transposed, plus bias (out,).

        The gradient flows to x and to `bias`; the quantized weight is frozen.
        """
        backend, bits = self.backend, 32 * packed.shape[-1] // x.shape[-1]
        scales, biases = (backend.cast(backend.stop_gradient(leaf), backend.dtype(x)) for leaf in (scales, biases))
        return backend.linear(x, self.dequantize(packed, scales, biases, bits), bias)

    def gather_linear(self, x: Array, ids: Array, packed: Array, scales: Array, biases: Array) -> Array:
        """Row i of x (P, in) times quantized matrix ids[i] of E (E, out, in): (P, out); `ids` (P,) ascend."""
        backend = self.backend
        kept = [
            backend.cast((ids == e)[:, None], backend.dtype(x)) * self.linear(x, packed[e], scales[e], biases[e])
            for e in range(len(packed))
        ]  # fmt: skip
        return sum(kept[1:], kept[0])

    def _shifts(self, bits: int) -> Array:
        return self.backend.arange(0, 32 // bits) * bits

    def _round(self, x: Array) -> Array:
        """To the nearest whole number; halves away from 0."""
        away = self.backend.where(x < 0, -0.5, 0.5)
        return self.backend.cast(self.backend.cast(x + away, "int32"), self.backend.dtype(x))
