"""Every backend operation on small inputs: value, gradient, dtype and shape against NumPy and across backends."""

import functools
import itertools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from backends import tree
from backends.base import Array, Backend
from minigpt.parity.array_cases import array_cases, elementwise_cases, indexing_cases, reduction_cases, update_cases
from minigpt.parity.case import Case, Draw
from minigpt.parity.layer_cases import attention_cases, layer_cases, loss_cases, quantized_cases
from minigpt.parity.reference import Row, difference, reference, row


def _cases() -> Iterator[Case]:
    draw = Draw(seed=7)
    yield from array_cases(draw)
    yield from elementwise_cases(draw)
    yield from reduction_cases(draw)
    yield from indexing_cases(draw)
    yield from layer_cases(draw)
    yield from quantized_cases(Draw(seed=8))
    yield from attention_cases(draw)
    yield from loss_cases(draw)
    yield from update_cases(draw)


CASES = tuple(_cases())


def compare_ops(backends: list[Backend], cases: Iterable[Case] | None = None) -> list[Row]:
    """Rows for all `cases` (default: CASES): each backend against NumPy and the stated dtypes, and each pair."""
    return [r for case in (CASES if cases is None else cases) for r in _compare(backends, case)]


def _compare(backends: list[Backend], case: Case) -> Iterator[Row]:
    results = [(b.name, _evaluate(b, case)) for b in backends]
    for name, result in results:
        stated = (case.dtypes,) * len(result.dtypes) if isinstance(case.dtypes, str) else case.dtypes
        yield _row(case, "dtype", f"{name} vs stated", float(result.dtypes != stated), 0.0)
    for (name, a), (other, b) in itertools.combinations([*results, ("numpy", _expected(case))], 2):
        pair = f"{name} vs {other}"
        same_shapes = [x.shape for x in a.values] == [x.shape for x in b.values]
        yield _row(case, "shape", pair, float(not same_shapes), 0.0)
        yield _row(case, "value", pair, _largest(a.values, b.values), case.bound)
        if case.differentiable:
            yield _row(case, "gradient", pair, _largest(a.grads, b.grads), case.bound)


def _row(case: Case, quantity: str, pair: str, difference: float, bound: float) -> Row:
    return row("operation", case.name, quantity, pair, difference, bound)


def _largest(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    if len(found) != len(expected):
        return float("inf")
    return max(map(difference, found, expected), default=0.0)


@dataclass(frozen=True)
class _Result:
    values: list[np.ndarray]
    dtypes: tuple[str, ...]
    grads: list[np.ndarray]  # for the float inputs


def _evaluate(backend: Backend, case: Case) -> _Result:
    def outputs(arrays: list[Array]) -> list[Array]:
        return tree.leaves(case.run(backend, *arrays))

    def projection(floats: dict[str, Array]) -> tuple[Array, dict]:
        """A scalar that depends on each entry of each float result with its own random weight."""
        results = outputs([floats.get(str(i), x) for i, x in enumerate(inputs())])
        kept = [backend.cast(x, "float32") for x in results if "float" in backend.dtype(x)]
        draw = np.random.default_rng(zlib.crc32(case.name.encode()))
        weights = [backend.array(draw.standard_normal(tuple(x.shape)).astype(np.float32)) for x in kept]
        return sum((x * w).sum() for x, w in zip(kept, weights, strict=True)), {}

    def inputs() -> list[Array]:  # anew for each use: the updates may write in place
        return [backend.array(x) for x in case.inputs]

    results = outputs(inputs())
    values, dtypes = [backend.numpy(x) for x in results], tuple(backend.dtype(x) for x in results)
    if not case.differentiable:
        return _Result(values, dtypes, [])
    floats = {str(i): x for i, x in enumerate(inputs()) if case.inputs[i].dtype.kind == "f"}
    grads = backend.value_and_grad(projection)(floats)[1]
    return _Result(values, dtypes, [backend.numpy(g) for g in tree.leaves(grads)])


@functools.cache
def _expected(case: Case) -> _Result:
    return _evaluate(reference(), case)
