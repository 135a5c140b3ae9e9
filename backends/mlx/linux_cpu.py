"""MLX on a processor, which is how MLX runs on Linux without a GPU: what differs from Apple's GPUs.

There all but matrix products is computed by one thread, attention is not fused, and a trace costs minutes.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from backends.base import CAUSAL, Array, Visible, by_group
from backends.mlx import blas
from backends.mlx.groups import MLXQuantized
from backends.mlx.operations import MLXBackend
from backends.processor import made_by_amd

LANES = 2  # pieces of a batch side by side
STRIP = 64  # queries that attend together
FEW_ROWS = 3  # that the product with a packed matrix is fast for: 512 rows take 50 times longer than with floats


class MLXOnCPU(MLXBackend):
    """MLX on the CPU."""

    lanes = LANES

    def __init__(self) -> None:
        super().__init__("cpu")
        self._entered: set[int] = set()  # the lanes given work that nothing has waited for
        mx.disable_compile()  # on CPUs mx.compile runs a C++ compiler for every kernel: minutes, no gain
        # Read at the first evaluation: by default a lane's operations would wait until the other's are done.
        os.environ.setdefault("MLX_BFS_MAX_WIDTH", "200")

    def compile(self, fn: Callable) -> Callable:
        return fn

    def sync(self, *trees: Any) -> None:
        if len(self._entered) > 1:
            with blas.one_thread_each():
                mx.eval(*trees)
        else:
            mx.eval(*trees)
        self._entered.clear()

    def side_by_side(self, fn: Callable, pieces: Sequence[Any]) -> list[Any]:
        """A stream for every piece, in turn. One piece gets none: once its thread is there, it slows what is alone."""
        if len(pieces) < 2:
            return super().side_by_side(fn, pieces)
        found = []
        for number, piece in enumerate(pieces):
            self._entered.add(number % LANES)
            with mx.stream(_streams()[number % LANES]):
                found.append(fn(piece))
        return found

    def nonzero(self, mask: Array) -> Array | None:
        return mx.array(np.flatnonzero(np.array(mask)).astype(np.int32))

    def attention(
        self, q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0
    ) -> Array:
        if softcap or visible.bias is not None:
            return super().attention(q, k, v, scale, visible, softcap)
        causal = visible.causal and q.shape[2] > 1
        if causal and q.shape[2] == k.shape[2]:
            return _causal_in_strips(q, k, v, scale)
        if not causal and not (blas.BLAS and made_by_amd()):  # a gain of half; on an EPYC a loss of as much
            one = by_group(q, k, visible.mask)
            if one is not None:
                y = mx.fast.scaled_dot_product_attention(one, k, v, scale=scale, mask=visible.mask)
                return y.reshape(*q.shape[:3], -1)
        return super().attention(q, k, v, scale, visible)

    @property
    def quantized(self) -> MLXQuantized:
        return _QuantizedOnCPU(self)


class _QuantizedOnCPU(MLXQuantized):
    fast = False

    def linear(self, x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None) -> Array:
        if x.size // x.shape[-1] > FEW_ROWS:
            return self.unpacked_linear(x, packed, scales, biases, bias)
        return super().linear(x, packed, scales, biases, bias)


def _streams() -> list:
    """The lanes of the calling thread: a stream belongs to the thread that made it. Each has a thread, which stays."""
    if not hasattr(_OWN, "streams"):
        _OWN.streams = [mx.new_stream(mx.cpu) for _ in range(LANES)]
    return _OWN.streams


_OWN = threading.local()


def _causal_in_strips(q: Array, k: Array, v: Array, scale: float) -> Array:
    """Causal attention of a strip of queries at a time, with the keys up to its end: half of the square is never made.

    The exponentials of the softmax take longest.
    """
    ends = range(STRIP, q.shape[2] + STRIP, STRIP)
    strips = [
        mx.fast.scaled_dot_product_attention(
            q[:, :, end - STRIP : end], k[:, :, :end], v[:, :, :end], scale=scale, mask="causal"
        )
        for end in ends
    ]
    return mx.concatenate(strips, axis=2)
