"""MLX's updates, quantized matrices and runtime."""

import platform
import re
import sys
from typing import Any

import mlx.core as mx

from backends.mlx.chunked import after
from backends.quantized import Quantized
from backends.runtime import Runtime
from backends.tree import Array
from backends.updates import Updates

KERNEL_GROUPS = (32, 64, 128)  # sizes of a quantized group for which mx.quantized_matmul has kernels


class MLXUpdates(Updates):
    """The formulas, which `compile` fuses."""

    def scalar(self, value: float) -> Any:
        return value if self.backend.device == "cpu" else mx.array(value, mx.float32)

    def _after(self, x: Array, earlier: list[Array]) -> Array:
        return after(x, earlier)


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

    def gather_linear(self, x: Array, ids: Array, packed: Array, scales: Array, biases: Array) -> Array:
        size = x.shape[-1] // scales.shape[-1]
        if size not in KERNEL_GROUPS:
            return super().gather_linear(x, ids, packed, scales, biases)
        words = mx.stop_gradient(packed).view(mx.uint32)
        scales, biases = (mx.stop_gradient(leaf).astype(x.dtype) for leaf in (scales, biases))
        y = mx.gather_qmm(
            x[:, None], words, scales, biases, rhs_indices=mx.stop_gradient(ids), transpose=True, group_size=size,
            bits=32 * packed.shape[-1] // x.shape[-1], sorted_indices=True,
        )  # fmt: skip
        return y[:, 0]

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
