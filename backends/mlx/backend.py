"""MLX: Apple's array framework for unified memory (Metal), which also runs on Linux CPUs and on CUDA."""

import ctypes
import functools
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Array, Backend, BackendUnavailable, by_group, rope_frequencies
from backends.processor import made_by_amd


def _load_fast_blas() -> ctypes.CDLL | None:
    """Give MLX's Linux wheel a fast BLAS: it ships a reference one, 30 times slower than torch's library.

    The symbols are found when the library is loaded globally before `mlx.core` is. Macs use Accelerate.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    torch = importlib.util.find_spec("torch")
    library = Path(torch.origin).parent / "lib" / "libtorch_cpu.so" if torch and torch.origin else None
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL) if library is not None and library.exists() else None


BLAS = _load_fast_blas()
import mlx.core as mx  # noqa: E402

DTYPES = {
    "float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16,
    "int32": mx.int32, "uint8": mx.uint8, "bool": mx.bool_,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LANES = 2  # parts of a batch side by side on a CPU, where all but matrix products is computed by one thread
STRIP = 64  # queries that attend together on a CPU
KERNEL_GROUPS = (32, 64, 128)  # sizes of a quantized group for which mx.quantized_matmul has kernels


def create(device: str = "auto") -> Backend:
    """The MLX backend on "gpu", "cpu" or, with "auto", the GPU if there is one."""
    has_gpu = mx.is_available(mx.Device(mx.gpu))
    if device == "gpu" and not has_gpu:
        raise BackendUnavailable("MLX has no GPU here; leave the device out or use cpu.")
    chosen = "gpu" if has_gpu and device != "cpu" else "cpu"
    mx.set_default_device(mx.gpu if chosen == "gpu" else mx.cpu)
    return MLXBackend(chosen)


class MLXBackend(Backend):
    """MLX on the default device. Lazy: arrays are computed when they are read or at `sync`."""

    name = "mlx"
    lazy = True

    def __init__(self, device: str):
        self.device = device
        self._entered: set[int] = set()  # the lanes given work that nothing has waited for
        if device == "cpu":
            mx.disable_compile()  # on CPUs mx.compile runs a C++ compiler for every kernel: minutes, no gain
            # Read at the first evaluation: by default a lane's operations would wait until the other's are done.
            os.environ.setdefault("MLX_BFS_MAX_WIDTH", "200")

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

    def stack(self, arrays: list[Array]) -> Array:
        return mx.stack(arrays)

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

    def abs(self, x: Array) -> Array:
        return mx.abs(x)

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
        return fn if self.device == "cpu" else mx.compile(fn)

    def scalar(self, value: float) -> Any:
        return value if self.device == "cpu" else mx.array(value, mx.float32)

    def sync(self, *trees: Any) -> None:
        with _one_thread_each() if len(self._entered) > 1 else nullcontext():
            mx.eval(*trees)
        self._entered.clear()

    def start(self, x: Array) -> None:
        mx.async_eval(x)

    def lanes(self) -> list[AbstractContextManager]:
        if self.device != "cpu":
            return super().lanes()
        return [_Lane(number, stream, self._entered) for number, stream in enumerate(_streams())]

    def nonzero(self, mask: Array) -> Array | None:
        return mx.array(np.flatnonzero(np.array(mask)).astype(np.int32)) if self.device == "cpu" else None

    def after(self, x: Array, earlier: list[Array]) -> Array:
        return mx.depends([x], earlier)[0] if earlier else x

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
        return self.device == "cpu" or sys.platform == "darwin"

    def fast_bfloat16(self) -> bool:
        architecture = str(mx.device_info().get("architecture", "")) if self.device == "gpu" else ""
        generation = re.match(r"applegpu_g(\d+)", architecture)  # g13 is M1, g14 M2, g15 M3, …
        return self.device == "gpu" and (generation is None or int(generation[1]) >= 15)

    def versions(self) -> dict[str, str]:
        return {"mlx": mx.__version__, "device": self.device, "platform": platform.platform()}

    # ---- fused kernels -----------------------------------------------------------------------------------

    def sigmoid(self, x: Array) -> Array:
        return mx.sigmoid(x)

    def softmax(self, x: Array) -> Array:
        return mx.softmax(x, axis=-1)

    def logsumexp(self, x: Array) -> Array:
        return mx.logsumexp(x, axis=-1)

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        return mx.fast.rms_norm(x, weight.astype(x.dtype), eps)

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        return mx.fast.layer_norm(x, weight.astype(x.dtype), bias.astype(x.dtype), eps)

    def rope(self, x: Array, offset: int, theta: float | tuple[float, ...]) -> Array:
        given = isinstance(theta, tuple)
        periods = mx.array(1.0 / rope_frequencies(theta, len(theta))) if given else None  # MLX wants the inverse
        base = None if given else theta
        return mx.fast.rope(x, x.shape[-1], traditional=False, base=base, scale=1.0, offset=offset, freqs=periods)

    def attention(self, q: Array, k: Array, v: Array, scale: float, mask: Array | str | None = "causal") -> Array:
        if q.shape[2] == 1 and isinstance(mask, str):
            mask = None
        if self.device == "cpu" and isinstance(mask, str) and q.shape[2] == k.shape[2]:
            return _causal_in_strips(q, k, v, scale)
        grouped = self.device == "cpu" and not isinstance(mask, str) and not (BLAS and made_by_amd())
        if grouped and (one := by_group(q, k, mask)) is not None:  # a gain of half; on an EPYC a loss of as much
            return mx.fast.scaled_dot_product_attention(one, k, v, scale=scale, mask=mask).reshape(*q.shape[:3], -1)
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)

    def chunked_nll(self, hidden: Array, weight: Array, targets: Array, size: int) -> Array:
        return _chunked_nll(self, size)(hidden, weight.astype(hidden.dtype), targets)

    # ---- numbers in few bits -------------------------------------------------------------------------------

    def dequantize(self, packed: Array, scales: Array, biases: Array, bits: int) -> Array:
        size = 32 * packed.shape[-1] // bits // scales.shape[-1]
        if size not in KERNEL_GROUPS:
            return super().dequantize(packed, scales, biases, bits)
        words = mx.stop_gradient(packed).view(mx.uint32)
        return mx.dequantize(words, scales, biases, group_size=size, bits=bits)

    def quantized_linear(
        self, x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None
    ) -> Array:
        size, rows = x.shape[-1] // scales.shape[-1], x.size // x.shape[-1]
        if size not in KERNEL_GROUPS or (self.device == "cpu" and rows > 3):  # measured: 512 rows take 50 times longer
            return super().quantized_linear(x, packed, scales, biases, bias)
        bits = 32 * packed.shape[-1] // x.shape[-1]
        words = mx.stop_gradient(packed).view(mx.uint32)
        scales, biases = (mx.stop_gradient(leaf).astype(x.dtype) for leaf in (scales, biases))
        y = mx.quantized_matmul(x, words, scales, biases, transpose=True, group_size=size, bits=bits)
        return y if bias is None else y + bias.astype(x.dtype)

    def fast_quantized(self) -> bool:
        return self.device == "gpu"


@functools.cache
def _streams() -> list:
    """Each has a thread, which stays."""
    return [mx.new_stream(mx.cpu) for _ in range(LANES)]


class _Lane:
    """A context, to be entered as often as wanted, whose operations another thread computes."""

    def __init__(self, number: int, stream: Any, entered: set[int]):
        self._number, self._entered, self._context = number, entered, mx.stream(stream)

    def __enter__(self) -> None:
        self._entered.add(self._number)
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Each product within is computed by one thread: that of its lane. Two would wait for each other's cores."""
    count = getattr(BLAS, "MKL_Get_Max_Threads", None)
    choose = getattr(BLAS, "mkl_serv_set_num_threads", None)  # the public name is not in torch's library
    if count is None or choose is None:
        yield
        return
    before = count()
    choose(1)
    try:
        yield
    finally:
        choose(before)


def _causal_in_strips(q: Array, k: Array, v: Array, scale: float) -> Array:
    """Causal attention of a strip of queries at a time, with the keys up to its end: half of the square is never made.

    MLX's attention is not fused on CPUs, where the exponentials of its softmax take longest.
    """
    ends = range(STRIP, q.shape[2] + STRIP, STRIP)
    strips = [
        mx.fast.scaled_dot_product_attention(
            q[:, :, end - STRIP : end], k[:, :, :end], v[:, :, :end], scale=scale, mask="causal"
        )
        for end in ends
    ]
    return mx.concatenate(strips, axis=2)


def _chunked_nll(backend: MLXBackend, size: int) -> Callable:
    """The function of (x, w, targets). Each chunk waits for the one before: MLX would compute them side by side."""

    def chunks(x: Array) -> list[slice]:
        return [slice(i, i + size) for i in range(0, x.shape[0], size)]

    @mx.custom_function
    def nll(x: Array, w: Array, targets: Array) -> Array:
        parts: list[Array] = []
        for here in chunks(x):
            rows = backend.after(x[here], parts[-1:])
            parts.append(backend.token_nll((rows @ w.T)[None], targets[here][None])[0])
        return mx.concatenate(parts)

    @nll.vjp
    def slopes(primals: tuple, upstream: Array, output: Array) -> tuple:
        x, w, targets = primals
        dx: list[Array] = []
        dw = mx.zeros(w.shape, mx.float32)
        for here in chunks(x):
            rows = backend.after(x[here], [dw, *dx[-1:]])
            predicted = mx.softmax((rows @ w.T).astype(mx.float32), axis=-1)
            right = mx.arange(w.shape[0])[None, :] == targets[here][:, None]
            slope = ((predicted - right) * upstream[here][:, None]).astype(x.dtype)  # (size, V)
            dx.append(slope @ w)
            dw = dw + slope.T @ rows
        return mx.concatenate(dx), dw.astype(w.dtype), mx.zeros_like(targets)

    return nll
