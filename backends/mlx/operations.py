"""The operations in MLX, Apple's array framework for unified memory (Metal), as a GPU wants them."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from backends.base import CAUSAL, Array, Backend, Visible, rope_frequencies
from backends.group import Group, Launched
from backends.mlx.chunked import chunked_nll
from backends.mlx.groups import MLXQuantized, MLXRuntime, MLXUpdates
from backends.quantized import Quantized
from backends.runtime import Runtime
from backends.updates import Updates

DTYPES = {
    "float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16,
    "int32": mx.int32, "uint8": mx.uint8, "bool": mx.bool_,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FEW = 64  # entries that are all sorted to find the largest, in four operations in place of eight


class MLXBackend(Backend):
    """MLX on the default device. Lazy: arrays are computed when they are read or at `sync`."""

    name = "mlx"
    lazy = True
    gathers_few = True  # a CPU, too, need not wait until it is known which matrices they are

    def __init__(self, device: str):
        self.device = device
        self.gathers = device == "gpu"

    def array(self, values: Any, dtype: str | None = None) -> Array:
        values = np.asarray(values)
        narrow = {"float64": np.float32, "int64": np.int32, "uint16": np.int32, "uint32": np.int32}
        x = mx.array(values.astype(narrow.get(values.dtype.name, values.dtype), copy=False))
        return x if dtype is None else x.astype(DTYPES[dtype])

    def numpy(self, x: Array) -> np.ndarray:
        self.sync(x)
        return np.array(x.astype(mx.float32) if x.dtype == mx.bfloat16 else x)

    def zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        return mx.zeros(shape, DTYPES[dtype])

    def arange(self, start: int, stop: int) -> Array:
        return mx.arange(start, stop, dtype=mx.int32)

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype(DTYPES[dtype])

    def dtype(self, x: Array) -> str:
        return NAMES[x.dtype]

    def concat(self, arrays: list[Array], axis: int) -> Array:
        return mx.concatenate(arrays, axis=axis)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        return mx.where(condition, a, b)

    def stop_gradient(self, x: Array) -> Array:
        return mx.stop_gradient(x)

    def exp(self, x: Array) -> Array:
        return mx.exp(x)

    def log(self, x: Array) -> Array:
        return mx.log(x)

    def sqrt(self, x: Array) -> Array:
        return mx.sqrt(x)

    def sin(self, x: Array) -> Array:
        return mx.sin(x)

    def cos(self, x: Array) -> Array:
        return mx.cos(x)

    def tanh(self, x: Array) -> Array:
        return mx.tanh(x)

    def erf(self, x: Array) -> Array:
        return mx.erf(x)

    def amax(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        return mx.max(x, axis=axis, keepdims=keepdims)

    def argmax(self, x: Array, axis: int) -> Array:
        return mx.argmax(x, axis=axis).astype(mx.int32)  # uint32 would underflow in `argmax - 1`

    def cumsum(self, x: Array, axis: int) -> Array:
        return mx.cumsum(x, axis=axis)

    def take(self, x: Array, indices: Array) -> Array:
        return x[mx.stop_gradient(indices)]  # indices may be an integer leaf of the weights

    def split(self, x: Array, sizes: Sequence[int]) -> list[Array]:
        return mx.split(x, np.cumsum(sizes)[:-1].tolist())

    def gather(self, x: Array, indices: Array) -> Array:
        return mx.take_along_axis(x, mx.stop_gradient(indices), axis=-1)

    def topk(self, x: Array, k: int) -> tuple[Array, Array]:
        frozen = mx.stop_gradient(x)  # MLX refuses a gradient through the indices
        if x.shape[-1] <= FEW:
            indices = mx.argsort(-frozen, axis=-1)[..., :k]
        else:
            found = mx.argpartition(-frozen, kth=k - 1, axis=-1)[..., :k]
            order = mx.argsort(-mx.take_along_axis(frozen, found, axis=-1), axis=-1)
            indices = mx.take_along_axis(found, order, axis=-1)
        return mx.take_along_axis(x, indices, axis=-1), indices.astype(mx.int32)

    def argsort(self, x: Array) -> Array:
        return mx.argsort(mx.stop_gradient(x)).astype(mx.int32)

    def add_rows(self, values: Array, rows: Array, count: int) -> Array:
        return mx.zeros((count, values.shape[1]), values.dtype).at[mx.stop_gradient(rows)].add(values)

    def gather_linear(self, x: Array, ids: Array, weights: Array) -> Array:
        turned, ids = weights.astype(x.dtype).swapaxes(-1, -2), mx.stop_gradient(ids)
        return mx.gather_mm(x[:, None], turned, rhs_indices=ids, sorted_indices=True)[:, 0]

    def value_and_grad(self, fn: Callable, compiled: bool = False) -> Callable:
        differentiated = mx.value_and_grad(fn)
        return self.compile(differentiated) if compiled else differentiated

    def checkpoint(self, fn: Callable) -> Callable:
        return mx.checkpoint(fn)

    def compile(self, fn: Callable) -> Callable:
        return mx.compile(fn)

    def sync(self, *trees: Any) -> None:
        mx.eval(*trees)

    def async_eval(self, *trees: Any) -> None:
        mx.async_eval(*trees)

    # ---- fused kernels -----------------------------------------------------------------------------------

    def relu(self, x: Array) -> Array:
        return mx.maximum(x, 0)

    def silu(self, x: Array) -> Array:
        return x * mx.sigmoid(x)

    def softmax(self, x: Array) -> Array:
        return mx.softmax(x, axis=-1)

    def logsumexp(self, x: Array) -> Array:
        return mx.logsumexp(x, axis=-1)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        return mx.fast.rms_norm(x, weight.astype(x.dtype), eps)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return mx.fast.layer_norm(x, weight.astype(x.dtype), bias.astype(x.dtype), eps)

    def rope(self, x: Array, positions: int | Array, theta: float | tuple[float, ...]) -> Array:
        if not isinstance(positions, int) and positions.ndim == 2:
            return super().rope(x, positions, theta)  # the kernel counts on from a row's first position
        given = isinstance(theta, tuple)
        periods = mx.array(1.0 / rope_frequencies(theta, len(theta))) if given else None  # MLX wants the inverse
        base = None if given else theta
        return mx.fast.rope(x, x.shape[-1], traditional=False, base=base, scale=1.0, offset=positions, freqs=periods)

    def attention(
        self, q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0
    ) -> Array:
        if softcap:
            return super().attention(q, k, v, scale, visible, softcap)
        causal = visible.causal and q.shape[2] > 1  # one query sees all keys
        mask = visible.mask if visible.bias is None else visible.bias.astype(q.dtype)
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal" if causal else mask)

    def chunked_nll(self, hidden: Array, weight: Array, targets: Array, size: int) -> Array:
        return chunked_nll(self, size)(hidden, weight.astype(hidden.dtype), targets)

    # ---- groups ------------------------------------------------------------------------------------------

    @property
    def updates(self) -> Updates:
        return MLXUpdates(self)

    @property
    def quantized(self) -> Quantized:
        return MLXQuantized(self)

    @property
    def runtime(self) -> Runtime:
        return MLXRuntime(self)

    def grouped(self, launched: Launched) -> Group:
        from backends.mlx.group import MLXGroup

        return MLXGroup(self, launched)
