"""MLX: Apple's array framework for unified memory (Metal); on CUDA too, and on Linux CPUs (see `linux_cpu`)."""

import platform
import re
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from backends.base import CAUSAL, Array, Backend, BackendUnavailable, Visible, rope_frequencies
from backends.quantized import Quantized
from backends.runtime import Runtime
from backends.updates import Updates

DTYPES = {
    "float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16,
    "int32": mx.int32, "uint8": mx.uint8, "bool": mx.bool_,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
KERNEL_GROUPS = (32, 64, 128)  # sizes of a quantized group for which mx.quantized_matmul has kernels


def create(device: str = "auto") -> Backend:
    """The MLX backend on "gpu", "cpu" or, with "auto", the GPU if there is one."""
    has_gpu = mx.is_available(mx.Device(mx.gpu))
    if device == "gpu" and not has_gpu:
        raise BackendUnavailable("MLX has no GPU here; leave the device out or use cpu.")
    if has_gpu and device != "cpu":
        mx.set_default_device(mx.gpu)
        return MLXBackend("gpu")
    from backends.mlx.linux_cpu import MLXOnCPU

    mx.set_default_device(mx.cpu)
    return MLXOnCPU()


class MLXBackend(Backend):
    """MLX on the default device. Lazy: arrays are computed when they are read or at `sync`."""

    name = "mlx"
    lazy = True

    def __init__(self, device: str):
        self.device = device

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

    def gather(self, x: Array, indices: Array) -> Array:
        return mx.take_along_axis(x, mx.stop_gradient(indices), axis=-1)

    def topk(self, x: Array, k: int) -> tuple[Array, Array]:
        frozen = mx.stop_gradient(x)  # MLX refuses a gradient through the indices
        found = mx.argpartition(-frozen, kth=k - 1, axis=-1)[..., :k]
        order = mx.argsort(-mx.take_along_axis(frozen, found, axis=-1), axis=-1)
        indices = mx.take_along_axis(found, order, axis=-1)
        return mx.take_along_axis(x, indices, axis=-1), indices.astype(mx.int32)

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

    def attention(self, q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL) -> Array:
        causal = visible.causal and q.shape[2] > 1  # one query sees all keys
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask="causal" if causal else visible.mask)

    def chunked_nll(self, hidden: Array, weight: Array, targets: Array, size: int) -> Array:
        return _chunked_nll(self, size)(hidden, weight.astype(hidden.dtype), targets)

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


class MLXUpdates(Updates):
    """The formulas, which `compile` fuses."""

    def scalar(self, value: float) -> Any:
        return value if self.backend.device == "cpu" else mx.array(value, mx.float32)

    def _after(self, x: Array, earlier: list[Array]) -> Array:
        return _after(x, earlier)


class MLXQuantized(Quantized):
    """MLX's kernels, where they have the size of the groups."""

    fast = True

    def dequantize(self, packed: Array, scales: Array, biases: Array, bits: int) -> Array:
        size = 32 * packed.shape[-1] // bits // scales.shape[-1]
        if size not in KERNEL_GROUPS:
            return super().dequantize(packed, scales, biases, bits)
        words = mx.stop_gradient(packed).view(mx.uint32)
        return mx.dequantize(words, scales, biases, group_size=size, bits=bits)

    def linear(self, x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None) -> Array:
        size = x.shape[-1] // scales.shape[-1]
        if size not in KERNEL_GROUPS:
            return self.unpacked_linear(x, packed, scales, biases, bias)
        bits = 32 * packed.shape[-1] // x.shape[-1]
        words = mx.stop_gradient(packed).view(mx.uint32)
        scales, biases = (mx.stop_gradient(leaf).astype(x.dtype) for leaf in (scales, biases))
        y = mx.quantized_matmul(x, words, scales, biases, transpose=True, group_size=size, bits=bits)
        return y if bias is None else y + bias.astype(x.dtype)

    def unpacked_linear(
        self, x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None
    ) -> Array:
        """`linear` with the floats that the codes stand for."""
        return super().linear(x, packed, scales, biases, bias)


class MLXRuntime(Runtime):
    """MLX's own counters and bounds."""

    def memory(self) -> dict[str, int]:
        return {"active": mx.get_active_memory(), "peak": mx.get_peak_memory()}

    def set_limits(self, memory: int | None = None, cache: int | None = None, threads: int | None = None) -> None:
        if memory is not None:
            mx.set_memory_limit(memory)
        if cache is not None:
            mx.set_cache_limit(cache)

    def clear_cache(self) -> None:
        mx.clear_cache()

    def shares_memory(self) -> bool:
        return self.backend.device == "cpu" or sys.platform == "darwin"

    def fast_bfloat16(self) -> bool:
        if self.backend.device == "cpu":
            return False
        generation = re.match(r"applegpu_g(\d+)", str(mx.device_info().get("architecture", "")))  # g13 is M1, g15 M3
        return generation is None or int(generation[1]) >= 15

    def versions(self) -> dict[str, str]:
        return {"mlx": mx.__version__} | super().versions() | {"platform": platform.platform()}


def _after(x: Array, earlier: list[Array]) -> Array:
    """`x`, computed only when `earlier` are: MLX would compute both side by side."""
    return mx.depends([x], earlier)[0] if earlier else x


def _chunked_nll(backend: MLXBackend, size: int) -> Callable:
    """The function of (x, w, targets). Each chunk waits for the one before."""

    def chunks(x: Array) -> list[slice]:
        return [slice(i, i + size) for i in range(0, x.shape[0], size)]

    @mx.custom_function
    def nll(x: Array, w: Array, targets: Array) -> Array:
        losses: list[Array] = []
        for here in chunks(x):
            rows = _after(x[here], losses[-1:])
            losses.append(backend.token_nll((rows @ w.T)[None], targets[here][None])[0])
        return mx.concatenate(losses)

    @nll.vjp
    def grads(primals: tuple, upstream: Array, output: Array) -> tuple:
        x, w, targets = primals
        dx: list[Array] = []
        dw = mx.zeros(w.shape, mx.float32)
        for here in chunks(x):
            rows = _after(x[here], [dw, *dx[-1:]])
            predicted = mx.softmax((rows @ w.T).astype(mx.float32), axis=-1)
            right = mx.arange(w.shape[0])[None, :] == targets[here][:, None]
            dlogits = ((predicted - right) * upstream[here][:, None]).astype(x.dtype)  # (size, V)
            dx.append(dlogits @ w)
            dw = dw + dlogits.T @ rows
        return mx.concatenate(dx), dw.astype(w.dtype), mx.zeros_like(targets)

    return nll
