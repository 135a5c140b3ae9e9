"""One operation on small inputs: how a row of the operations' table is written, and how far results may differ."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import Array, Backend

# float32 rounds by 6e-8 of a value. Sums of some dozen terms and an exponential make that up to 1e-6 of the largest
# entry on CPUs; GPU kernels with approximate exponentials get ten times more.
FP32 = 1e-5
# Where exp(x - y) is taken with x and y in the hundreds, y alone is rounded by 3e-5.
FP32_EXTREME = 1e-4
# Rotary angles are position * frequency, both factors and the product rounded in float32: an error in the angle.
ROPE_PER_POSITION = 2e-7
# Each of five Newton-Schulz steps multiplies the small singular values, and their rounding errors, by 3.4.
NEWTON_SCHULZ = 1e-4
# Four times bfloat16's epsilon 2^-7: a kernel rounds its inputs' products, its result and its gradient.
BF16 = 2.0**-5


@dataclass(frozen=True, eq=False)
class Case:
    """One operation on given inputs; `run(backend, *inputs)` returns an array or a list of arrays."""

    name: str  # "attention: GQA, causal"; the part before the colon is the method, "updates.add" that of a group
    inputs: tuple[np.ndarray, ...]
    run: Callable[..., Any]
    dtypes: str | tuple[str, ...] = "float32"  # of the results: all the same, or one each
    differentiable: bool = True
    bound: float = FP32

    @property
    def op(self) -> str:
        return self.name.split(":")[0]


fixed = functools.partial(Case, differentiable=False)  # a case without gradients


def in_bf16(case: Case, casts: list[int] | None = None, result: str = "bfloat16") -> Case:
    """The same case with its float inputs (or those numbered in `casts`) cast to bfloat16 first."""
    numbers = [i for i, x in enumerate(case.inputs) if x.dtype == np.float32] if casts is None else casts

    def run(b: Backend, *arrays: Array) -> Any:
        return case.run(b, *(b.cast(x, "bfloat16") if i in numbers else x for i, x in enumerate(arrays)))

    what = "bfloat16" if casts is None else f"inputs {casts} in bfloat16"
    name = f"{case.name}{', ' if ':' in case.name else ': '}{what}"
    return Case(name, case.inputs, run, result, case.differentiable, BF16)


class Draw:
    """Random inputs of a given shape. All floats are float32 and exact in bfloat16, so casting them loses nothing."""

    def __init__(self, seed: int):
        self._random = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return exact_in_bf16(self._random.standard_normal(shape) * scale)

    def words(self, *shape: int) -> np.ndarray:
        """int32 numbers whose bits are all random."""
        return self._random.integers(-(2**31), 2**31, shape).astype(np.int32)

    def positive(self, *shape: int) -> np.ndarray:
        return exact_in_bf16(self._random.uniform(0.2, 3.0, shape))

    def distinct(self, *shape: int) -> np.ndarray:
        """No two entries alike, so that the order of topk and argmax is defined."""
        count = int(np.prod(shape))
        return ((self._random.permutation(count) - count / 3) / 8).reshape(shape).astype(np.float32)

    def ints(self, high: int, *shape: int) -> np.ndarray:
        return self._random.integers(0, high, shape).astype(np.int32)

    def bools(self, *shape: int) -> np.ndarray:
        """A mask (…, Tq, Tk) in which every row allows at least one key."""
        mask = self._random.random(shape) < 0.5
        return mask | np.eye(shape[-2], shape[-1], dtype=np.bool_)


def exact_in_bf16(x: np.ndarray) -> np.ndarray:
    """The array without the digits that bfloat16 does not have."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
