"""NumPy in float64: the reference that the other backends are compared with. It trains nothing but small cases."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from backends import tree
from backends.base import Array, Backend, BackendUnavailable
from backends.runtime import Runtime


def create(device: str = "auto") -> Backend:
    """The NumPy backend, which has no GPU."""
    if device == "gpu":
        raise BackendUnavailable("NumPy has no GPU; use cpu.")
    return NumPyBackend()


class NumPyBackend(Backend):
    """The primitives in NumPy; everything composed is inherited, so base.py's formulas are the reference.

    Every float is held in float64 whatever dtype was asked for (its name is given back as "float32"), so the
    values are those of exact arithmetic, and central differences are good to about nine digits.
    """

    name = "numpy"
    device = "cpu"

    def __init__(self) -> None:
        self._freeze: Callable = lambda x: x  # what stop_gradient does: value_and_grad replaces it

    def array(self, values: Any, dtype: str | None = None) -> Array:
        values = np.array(values)
        return self.cast(values, dtype or {"f": "float32", "b": "bool"}.get(values.dtype.kind, "int32"))

    def numpy(self, x: Array) -> np.ndarray:
        return np.array(x)

    def zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Array:
        return self.cast(np.zeros(shape), dtype)

    def arange(self, start: int, stop: int) -> Array:
        return np.arange(start, stop, dtype=np.int32)

    def cast(self, x: Array, dtype: str) -> Array:
        return x.astype({"int32": np.int32, "uint8": np.uint8, "bool": np.bool_}.get(dtype, np.float64))

    def dtype(self, x: Array) -> str:
        return {"float64": "float32"}.get(x.dtype.name, x.dtype.name)

    def concat(self, arrays: list[Array], axis: int) -> Array:
        return np.concatenate(arrays, axis=axis)

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        return np.where(condition, a, b)

    def stop_gradient(self, x: Array) -> Array:
        return self._freeze(x)

    def exp(self, x: Array) -> Array:
        return np.exp(x)

    def log(self, x: Array) -> Array:
        return np.log(x)

    def sqrt(self, x: Array) -> Array:
        return np.sqrt(x)

    def sin(self, x: Array) -> Array:
        return np.sin(x)

    def cos(self, x: Array) -> Array:
        return np.cos(x)

    def tanh(self, x: Array) -> Array:
        return np.tanh(x)

    def erf(self, x: Array) -> Array:
        return np.vectorize(math.erf, otypes=[np.float64])(x)

    def amax(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        return np.max(x, axis=axis, keepdims=keepdims)

    def argmax(self, x: Array, axis: int) -> Array:
        return np.argmax(x, axis=axis).astype(np.int32)

    def cumsum(self, x: Array, axis: int) -> Array:
        return np.cumsum(x, axis=axis, dtype=x.dtype)

    def take(self, x: Array, indices: Array) -> Array:
        return x[indices]

    def gather(self, x: Array, indices: Array) -> Array:
        return np.take_along_axis(x, indices, axis=-1)

    def topk(self, x: Array, k: int) -> tuple[Array, Array]:
        indices = np.argsort(-x, axis=-1, kind="stable")[..., :k]
        return self.gather(x, indices), indices.astype(np.int32)

    def value_and_grad(self, fn: Callable, compiled: bool = False) -> Callable:
        """Central differences, two calls of `fn` per number in the weights: for small cases only."""

        def differentiated(weights: tree.Tree, *args: Any) -> tuple:
            result, again = self.frozen(fn, weights, *args)

            def loss(shifted: list[Array]) -> float:
                return float(again(tree.rebuild(weights, shifted), *args)[0])

            return result, tree.rebuild(weights, _central_differences(loss, tree.leaves(weights)))

        return differentiated

    def frozen(self, fn: Callable, *args: Any) -> tuple[Any, Callable]:
        """(fn(*args), the same function in which `stop_gradient` gives what it gave then).

        Differences of the second do not see what no gradient flows through.
        """
        seen: list[Array] = []
        result = self._run(lambda x: seen.append(np.copy(x)) or x, fn, *args)

        def again(*args: Any) -> Any:
            values = iter(seen)
            return self._run(lambda _: next(values), fn, *args)

        return result, again

    def _run(self, freeze: Callable, fn: Callable, *args: Any) -> Any:
        self._freeze = freeze
        try:
            return fn(*args)
        finally:
            self._freeze = lambda x: x

    def checkpoint(self, fn: Callable) -> Callable:
        return fn

    @property
    def runtime(self) -> Runtime:
        return NumPyRuntime(self)


class NumPyRuntime(Runtime):
    """NumPy counts and bounds nothing."""

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__} | super().versions()


def _central_differences(loss: Callable, leaves: list[Array], step: float = 1e-5) -> list[Array]:
    """(loss(x + step) - loss(x - step)) / (2 step) for each number of each float leaf; zeros for other leaves."""
    grads = [np.zeros_like(leaf) for leaf in leaves]
    for number, leaf in enumerate(leaves):
        for index in np.ndindex(leaf.shape) if leaf.dtype.kind == "f" else ():
            ends = []
            for sign in (1.0, -1.0):
                shifted = [x.copy() for x in leaves]
                shifted[number][index] += sign * step
                ends.append(loss(shifted))
            grads[number][index] = (ends[0] - ends[1]) / (2 * step)
    return grads
