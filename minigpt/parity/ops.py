"""Every backend operation on small inputs: value, gradient, dtype and shape against NumPy and across backends."""

import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends import tree
from backends.base import ALL, Array, Backend, Visible
from minigpt.parity.reference import Row, difference, reference, row

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


# ---- the table -------------------------------------------------------------------------------------------


def _cases() -> Iterator[Case]:
    draw = _Draw(seed=7)
    yield from _array_cases(draw)
    yield from _elementwise_cases(draw)
    yield from _reduction_cases(draw)
    yield from _indexing_cases(draw)
    yield from _layer_cases(draw)
    yield from _quantized_cases(_Draw(seed=8))
    yield from _attention_cases(draw)
    yield from _loss_cases(draw)
    yield from _update_cases(draw)


class _Draw:
    """Random inputs of a given shape. All floats are float32 and exact in bfloat16, so casting them loses nothing."""

    def __init__(self, seed: int):
        self._random = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return _exact_in_bf16(self._random.standard_normal(shape) * scale)

    def words(self, *shape: int) -> np.ndarray:
        """int32 numbers whose bits are all random."""
        return self._random.integers(-(2**31), 2**31, shape).astype(np.int32)

    def positive(self, *shape: int) -> np.ndarray:
        return _exact_in_bf16(self._random.uniform(0.2, 3.0, shape))

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


def _exact_in_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _array_cases(draw: _Draw) -> Iterator[Case]:
    x, y, n, flag = draw.normal(2, 3, 5), draw.normal(2, 3, 5), draw.ints(9, 2, 3, 5), draw.bools(3, 5)
    yield fixed("array: float64 becomes float32", (), lambda b: b.array(np.array([0.5, 2.0])))
    yield fixed("array: int64 becomes int32", (), lambda b: b.array(np.array([3, -4])), "int32")
    yield fixed("array: uint16 becomes int32", (), lambda b: b.array(np.array([3, 65535], np.uint16)), "int32")
    yield fixed("array: list as bfloat16", (), lambda b: b.array([1.0, 2.5], "bfloat16"), "bfloat16")
    yield fixed("zeros", (), lambda b: [b.zeros((2, 3)), b.zeros((1,), "int32")], ("float32", "int32"))
    yield fixed("arange", (), lambda b: b.arange(3, 9), "int32")

    odd = draw.positive(8) * np.float32(1.001)  # not exact in 16 bits
    yield Case("cast: to bfloat16", (odd,), lambda b, x: b.cast(x, "bfloat16"), "bfloat16", bound=BF16)
    yield Case("cast: to float16", (odd,), lambda b, x: b.cast(x, "float16"), "float16", bound=2.0**-10)
    yield fixed("cast: to int drops the fraction", (draw.normal(9, scale=4),), lambda b, x: b.cast(x, "int32"), "int32")
    yield fixed("cast: int and bool to float", (n, flag), lambda b, *x: [b.cast(a, "float32") for a in x])

    yield Case("concat", (x, y), lambda b, x, y: [b.concat([x, y], 0), b.concat([y, x, y], -1)])
    yield Case("where: arrays", (flag, x, y), lambda b, f, x, y: b.where(f, x, y))
    yield Case("where: array and number", (flag, x), lambda b, f, x: [b.where(f, x, -2.0), b.where(f, 0.5, x)])
    yield _in_bf16(Case("where: array and number", (flag, x), lambda b, f, x: b.where(f, x, -2.0)))
    yield Case("stop_gradient", (x,), lambda b, x: x * b.stop_gradient(x))
    yield fixed("write", (draw.normal(2, 2, 6, 3), draw.normal(2, 2, 2, 3)), lambda b, t, v: b.write(t, 3, v))
    other = _Draw(seed=10)
    yield fixed("write: each row at a place of its own", (other.normal(2, 2, 6, 3), other.normal(2, 2, 2, 3)),
                lambda b, t, v: b.write(t, b.array([4, 1]), v))  # fmt: skip

    # What the model uses without going through the backend: operators and methods that the frameworks share.
    yield Case("operators: arithmetic", (x, y), lambda b, x, y: (x - 2 * y) * x / (1 + y * y) - y**2)
    yield _in_bf16(Case("operators: numbers keep the dtype", (x,), lambda b, x: 1.5 * x / 3.0 + 2))
    yield Case("operators: matmul", (draw.normal(2, 3, 4), draw.normal(4, 6)), lambda b, x, w: x @ w)
    yield Case("operators: matmul, long sums", (draw.normal(4, 200), draw.normal(200, 4)), lambda b, x, w: x @ w)
    yield Case("operators: batched matmul", (draw.normal(2, 1, 3, 4), draw.normal(5, 4, 2)), lambda b, x, w: x @ w)
    yield Case("operators: shapes", (x,), lambda b, x: x.reshape(6, 5).swapaxes(0, 1)[1:, ::2][..., None])
    yield Case("operators: sums", (x,), lambda b, x: [x.sum(axis=-1, keepdims=True), x.mean(axis=1), x.sum()])
    yield fixed("operators: comparison", (n,), lambda b, n: [(n < 4) & (n != 2), n[:, 0] == n[:, 1]], "bool")


def _elementwise_cases(draw: _Draw) -> Iterator[Case]:
    x, far = draw.normal(3, 7, scale=2), np.array([-200.0, -90, -30, -1e-4, 0, 1e-4, 30, 90, 200], np.float32)
    for name in ("exp", "sin", "cos", "tanh", "erf", "silu", "gelu", "log_sigmoid"):
        yield Case(name, (x,), lambda b, x, name=name: getattr(b, name)(x))
    yield Case("gelu: approximate", (x,), lambda b, x: b.gelu(x, approximate=True))
    for name in ("log", "sqrt"):
        yield Case(name, (draw.positive(3, 7),), lambda b, x, name=name: getattr(b, name)(x))
    yield Case("operators: abs", (x + 0.01,), lambda b, x: abs(x))
    for name in ("tanh", "erf", "silu", "gelu", "log_sigmoid"):
        yield Case(f"{name}: extremes", (far,), lambda b, x, name=name: getattr(b, name)(x))
    yield Case("gelu: approximate, extremes", (far,), lambda b, x: b.gelu(x, approximate=True))
    for name in ("silu", "gelu"):
        yield _in_bf16(Case(name, (x,), lambda b, x, name=name: getattr(b, name)(x)))
    yield _in_bf16(Case("gelu: approximate", (x,), lambda b, x: b.gelu(x, approximate=True)))
    yield _in_bf16(Case("log_sigmoid", (x,), lambda b, x: b.log_sigmoid(x)))


def _reduction_cases(draw: _Draw) -> Iterator[Case]:
    x, n = draw.distinct(3, 4, 5), draw.ints(9, 3, 5)
    yield Case("amax", (x,), lambda b, x: [b.amax(x, axis=-1), b.amax(x, 1, keepdims=True)])
    yield fixed("argmax", (x,), lambda b, x: [b.argmax(x, axis=-1), b.argmax(x, axis=0)], "int32")
    first = np.array([[5.0, 1, 2], [0, 3, 1]], np.float32)
    yield fixed("argmax: less one is -1, not 4294967295", (first,), lambda b, x: b.argmax(x, axis=-1) - 1, "int32")
    yield Case("cumsum", (x,), lambda b, x: [b.cumsum(x, axis=-1), b.cumsum(x, axis=0)])
    yield fixed("cumsum: int32", (n,), lambda b, n: b.cumsum(n, axis=1), "int32")
    for name in ("softmax", "logsumexp"):
        yield Case(name, (x,), lambda b, x, name=name: getattr(b, name)(x))
        extremes = np.array([[300.0, 299, -300, 0], [-1000, -1001, -1003, -5000]], np.float32)
        yield Case(f"{name}: extremes", (extremes,), lambda b, x, name=name: getattr(b, name)(x), bound=FP32_EXTREME)
        yield _in_bf16(Case(name, (_exact_in_bf16(x),), lambda b, x, name=name: getattr(b, name)(x)))


def _indexing_cases(draw: _Draw) -> Iterator[Case]:
    table, x = draw.normal(7, 3), draw.distinct(2, 3, 8)
    ids = np.array([[0, 6, 6, 2], [5, 0, 6, 1]], np.int32)  # rows that repeat add up in the gradient
    yield Case("take: (N, D) at (B, T)", (table, ids), lambda b, x, i: b.take(x, i))
    yield Case("take: (N,) at (B, T)", (draw.normal(7), ids), lambda b, x, i: b.take(x, i))
    yield Case("take: (N, A, D) at (T,)", (draw.normal(7, 2, 3), ids[0]), lambda b, x, i: b.take(x, i))
    yield Case("gather", (x, draw.ints(8, 2, 3, 5)), lambda b, x, i: b.gather(x, i))
    yield Case("gather: positions from argmax", (x,), lambda b, x: b.gather(x, b.argmax(x, -1)[..., None]))
    for k in (1, 3, 8):
        yield Case(f"topk: {k} of 8, descending", (x,), lambda b, x, k=k: list(b.topk(x, k)), ("float32", "int32"))
    yield Case("topk: gather at its positions", (x,), lambda b, x: b.gather(b.softmax(x), b.topk(x, 2)[1]))


def _layer_cases(draw: _Draw) -> Iterator[Case]:
    x, weight = draw.normal(2, 3, 8), 1 + draw.normal(8, scale=0.3)
    tiny = draw.normal(2, 3, 8, scale=2e-3)  # mean square below eps: a lost eps changes everything
    norm = {"run": lambda b, x, w: b.rms_norm(x, w, 1e-5)}
    yield Case("rms_norm", (x, weight), **norm)
    yield Case("rms_norm: rows smaller than eps", (tiny, weight), **norm)
    yield Case("rms_norm: per head", (draw.normal(2, 3, 4, 8), weight), **norm)
    yield _in_bf16(Case("rms_norm", (x, weight), **norm), casts=[0])
    yield _in_bf16(Case("rms_norm", (x, _exact_in_bf16(weight)), **norm), casts=[0, 1])

    shift, layer = draw.normal(8), {"run": lambda b, x, w, c: b.layer_norm(x, w, c, 1e-5)}
    yield Case("layer_norm", (x + 3, weight, shift), **layer)
    yield Case("layer_norm: rows smaller than eps", (tiny, weight, shift), **layer)
    yield _in_bf16(Case("layer_norm", (x, weight, shift), **layer), casts=[0])

    y, matrix, bias = draw.normal(2, 3, 6), draw.normal(5, 6), draw.normal(5)
    yield Case("linear", (y, matrix), lambda b, x, w: b.linear(x, w))
    yield Case("linear: bias", (y, matrix, bias), lambda b, x, w, c: b.linear(x, w, c))
    yield Case("linears", (y, matrix, bias),
               lambda b, x, w, c: b.concat(b.linears(x, [w, w[:2]], [c, c[:2]]), -1))  # fmt: skip
    yield Case("linears: no bias", (y, matrix), lambda b, x, w: b.concat(b.linears(x, [w[1:], w], [None, None]), -1))
    yield Case("linear: rows", (y[0], matrix, bias), lambda b, x, w, c: b.linear(x, w, c))
    yield _in_bf16(Case("linear", (y, matrix, bias), lambda b, x, w, c: b.linear(x, w, c)), casts=[0])
    yield _in_bf16(Case("linear", (y, matrix, bias), lambda b, x, w, c: b.linear(x, w, c)))

    heads = draw.normal(2, 3, 5, 8)  # (B, H, T, D)
    for offset in (0, 1, 7, 254, 3000):
        yield Case(f"rope: offset {offset}", (heads,), lambda b, x, o=offset: b.rope(x, o, 10000.0),
                   bound=FP32 + offset * ROPE_PER_POSITION)  # fmt: skip
    yield Case("rope: one position, theta 1e6", (heads[:, :, :1],), lambda b, x: b.rope(x, 11, 1e6))
    given = (0.9, 0.11, 0.02, 0.0003)
    for offset in (0, 5):
        yield Case(f"rope: frequencies given, offset {offset}", (heads,), lambda b, x, o=offset: b.rope(x, o, given))
    yield _in_bf16(Case("rope: offset 7", (heads,), lambda b, x: b.rope(x, 7, 10000.0)))
    starts, all_places = np.array([300, 2], np.int32), np.array([[0, 1, 2, 0, 1], [9, 8, 300, 2, 2]], np.int32)
    yield Case("rope: each row from a position of its own", (heads, starts), lambda b, x, p: b.rope(x, p, 10000.0),
               bound=FP32 + 300 * ROPE_PER_POSITION)  # fmt: skip
    yield Case("rope: a position for each token", (heads, all_places), lambda b, x, p: b.rope(x, p, 10000.0),
               bound=FP32 + 300 * ROPE_PER_POSITION)  # fmt: skip
    yield Case("checkpoint: gradients of every argument", (y, matrix),
               lambda b, x, w: b.checkpoint(lambda x, w: b.silu(b.linear(x, w["w"])))(x, {"w": w}))  # fmt: skip


def _quantized_cases(draw: _Draw) -> Iterator[Case]:
    for bits, size in itertools.product((4, 8), (16, 32, 64)):  # MLX has no kernel for groups of 16
        what = f"{bits} bits, groups of {size}"
        unrounded = np.sin(np.arange(20 * size, dtype=np.float32)).reshape(2, 5, 2 * size)  # no number between codes
        yield fixed(f"quantized.quantize: {what}", (unrounded,),
                    lambda b, x, bits=bits, size=size: list(b.quantized.quantize(x, bits, size)),
                    ("int32", "float32", "float32"))  # fmt: skip
        words = draw.words(5, 2 * size * bits // 32)
        steps = draw.normal(5, 2, scale=0.1), draw.normal(5, 2)
        yield fixed(f"quantized.dequantize: {what}", (words, *steps),
                    lambda b, *leaves, bits=bits: b.quantized.dequantize(*leaves, bits))  # fmt: skip
        for rows in (1, 7):
            x, name = draw.normal(rows, 2 * size), f"quantized.linear: {what}, {rows} rows"
            yield Case(name, (x, words, *steps), lambda b, x, *leaves: b.quantized.linear(x, *leaves))
    yield Case("quantized.linear: bias", (x[None], words, *steps, draw.normal(5)),
               lambda b, x, *leaves: b.quantized.linear(x, *leaves))  # fmt: skip
    yield _in_bf16(Case("quantized.linear", (x, words, *steps), lambda b, *a: b.quantized.linear(*a)), casts=[0])
    edges = np.stack([np.zeros(32), np.full(32, 3.0), np.full(32, -3.0), np.eye(32)[0] * 1e-3])
    yield fixed("quantized.quantize: groups of equal numbers", (edges.astype(np.float32),),
                lambda b, x: list(b.quantized.quantize(x, 4, 32)), ("int32", "float32", "float32"))  # fmt: skip


def _attention_cases(draw: _Draw) -> Iterator[Case]:
    def inputs(heads: int, groups: int, queries: int, keys: int) -> tuple[np.ndarray, ...]:
        return draw.normal(2, heads, queries, 4), draw.normal(2, groups, keys, 4), draw.normal(2, groups, keys, 4)

    def masked(b: Backend, q: Array, k: Array, v: Array, mask: Any) -> Array:
        return b.attention(q, k, v, 0.7, Visible(mask))

    for kind, heads, groups in (("MHA", 4, 4), ("GQA", 4, 2), ("MQA", 4, 1)):
        for queries in (5, 3, 1):
            yield Case(f"attention: {kind}, causal, Tq {queries} Tk 5", inputs(heads, groups, queries, 5),
                       lambda b, q, k, v: b.attention(q, k, v, 0.7))  # fmt: skip
        yield Case(f"attention: {kind}, no mask", inputs(heads, groups, 3, 5),
                   lambda b, q, k, v: b.attention(q, k, v, 0.7, ALL))  # fmt: skip
        for shape in ((2, 1, 3, 5), (2, 4, 3, 5), (3, 5)):
            yield Case(f"attention: {kind}, mask {shape}", (*inputs(heads, groups, 3, 5), draw.bools(*shape)), masked)
    q, k, v = inputs(4, 2, 5, 5)
    yield Case("attention: scores of hundreds", (q * 16, k * 16, v), lambda b, q, k, v: b.attention(q, k, v, 0.7),
               bound=FP32_EXTREME)  # fmt: skip
    yield _in_bf16(Case("attention: causal", (q, k, v), lambda b, q, k, v: b.attention(q, k, v, 0.7)))
    yield _in_bf16(Case("attention: Tq < Tk", (q[:, :, :3], k, v), lambda b, q, k, v: b.attention(q, k, v, 0.7)))
    yield _in_bf16(Case("attention: bool mask", (q, k, v, draw.bools(2, 1, 5, 5)), masked))
    few = _Draw(seed=9)
    for shape in ((2, 1, 1, 5), (2, 4, 1, 5), (1, 5)):
        yield Case(f"attention: one query, mask {shape}", (q[:, :, :1], k, v, few.bools(*shape)), masked)
    longer = (few.normal(1, 4, 150, 2), few.normal(1, 2, 150, 2), few.normal(1, 2, 150, 2))
    yield Case("attention: causal, 150 tokens", longer, lambda b, q, k, v: b.attention(q, k, v, 0.7))
    segments = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]], np.int32)
    yield Case("visible: examples that share a row", (q, k, v, segments),
               lambda b, q, k, v, s: [b.attention(q, k, v, 0.7, b.visible(5, 5, segments=s, window=n)) for n in (0, 2)])
    rows = np.array([1, 0], np.int32)  # filled to 2 and 1 of 5 places before the last of three queries
    yield Case("visible: rows of different length", (q[:, :, :3], k, v, rows),
               lambda b, q, k, v, p: b.attention(q, k, v, 0.7, b.visible(3, 5, positions=p)))  # fmt: skip


def _loss_cases(draw: _Draw) -> Iterator[Case]:
    logits, targets = draw.normal(2, 5, 11, scale=3), draw.ints(11, 2, 5)
    targets[0, :2] = 0, 10  # both ends of the vocabulary
    yield Case("token_nll", (logits, targets), lambda b, x, t: b.token_nll(x, t))
    yield Case("token_nll: extremes", (logits * 100, targets), lambda b, x, t: b.token_nll(x, t))
    yield _in_bf16(Case("token_nll", (logits, targets), lambda b, x, t: b.token_nll(x, t)), result="float32")
    counted = np.array([[0, 1, 1, 0, 1], [0, 0, 1, 1, 0]], np.float32)
    yield Case("token_nll: mean over a 0/1 mask", (logits, targets, counted),
               lambda b, x, t, m: (b.token_nll(x, t) * m).sum() / m.sum())  # fmt: skip
    hidden, head = draw.normal(10, 6), draw.normal(11, 6)
    for size in (1, 4, 10, 99):
        yield Case(f"chunked_nll: {size} of 10", (hidden, head, targets.reshape(-1)),
                   lambda b, x, w, t, size=size: b.chunked_nll(x, w, t, size))  # fmt: skip
    yield Case("chunked_nll: extremes", (hidden * 100, head, targets.reshape(-1)),
               lambda b, x, w, t: b.chunked_nll(x, w, t, 4), bound=FP32_EXTREME)  # fmt: skip
    yield _in_bf16(Case("chunked_nll", (hidden, head, targets.reshape(-1)),
                        lambda b, x, w, t: b.chunked_nll(x, w, t, 4)), result="float32")  # fmt: skip


def _update_cases(draw: _Draw) -> Iterator[Case]:
    def lists(scale: float = 1.0) -> list[np.ndarray]:
        return [draw.normal(3, 4, scale=scale), draw.normal(4, scale=scale), draw.normal(2, 5, scale=scale)]

    yield fixed("updates.add", (*lists(), *lists()), lambda b, *x: b.updates.add(list(x[:3]), list(x[3:])))
    for name, limit, scale in (("above the limit", 1.0, 1.0), ("below the limit", 1.0, 0.05), ("no limit", 0.0, 1.0)):
        yield fixed(f"updates.clip: {name}", tuple(lists(scale)),
                    lambda b, *g, limit=limit: list(b.updates.clip(list(g), limit)))  # fmt: skip

    grads = [draw.normal(4, *p.shape) for p in lists()]  # of four steps
    yield fixed("updates.adamw: four steps, mixed decays", (*lists(), *grads), _adamw_steps)
    params = [draw.normal(*shape) for shape in ((6, 3), (3, 6), (4, 4), (3, 6))]
    grads = [draw.normal(3, *p.shape) for p in params]
    yield fixed("updates.muon: tall, wide, square, two alike", (*params, *grads), _muon_steps, bound=NEWTON_SCHULZ)
    for shape in ((1, 7, 3), (2, 3, 7), (2, 4, 4)):
        yield fixed(f"updates.orthogonalize: {shape}", (draw.normal(*shape),),
                    lambda b, x: b.updates.orthogonalize(x, 5), bound=NEWTON_SCHULZ)  # fmt: skip


def _adamw_steps(b: Backend, *arrays: Array) -> list:
    params, grads = list(arrays[:3]), arrays[3:]
    first, second = ([b.zeros(tuple(p.shape)) for p in params] for _ in range(2))
    for step in range(grads[0].shape[0]):
        params, first, second = b.updates.adamw(
            params, [g[step] for g in grads], first, second, lr=0.1, beta1=0.9, beta2=0.95, eps=1e-3,
            correction1=1 - 0.9 ** (step + 1), correction2=1 - 0.95 ** (step + 1), decays=[0.3, 0.0, 0.8],
        )  # fmt: skip
    return [params, first, second]


def _muon_steps(b: Backend, *arrays: Array) -> list:
    params, grads = list(arrays[:4]), arrays[4:]
    momentum = [b.zeros(tuple(p.shape)) for p in params]
    for step in range(grads[0].shape[0]):
        params, momentum = b.updates.muon(params, [g[step] for g in grads], momentum, lr=0.2, beta=0.9, decay=0.5)
    return [params, momentum]


def _in_bf16(case: Case, casts: list[int] | None = None, result: str = "bfloat16") -> Case:
    """The same case with its float inputs (or those numbered in `casts`) cast to bfloat16 first."""
    numbers = [i for i, x in enumerate(case.inputs) if x.dtype == np.float32] if casts is None else casts

    def run(b: Backend, *arrays: Array) -> Any:
        return case.run(b, *(b.cast(x, "bfloat16") if i in numbers else x for i, x in enumerate(arrays)))

    what = "bfloat16" if casts is None else f"inputs {casts} in bfloat16"
    name = f"{case.name}{', ' if ':' in case.name else ': '}{what}"
    return Case(name, case.inputs, run, result, case.differentiable, BF16)


CASES = tuple(_cases())
