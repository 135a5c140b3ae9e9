"""Operations on arrays: values, gradients and dtypes that do not depend on a model; and the optimizers' updates."""

from collections.abc import Iterator

import numpy as np

from backends.base import Array, Backend
from minigpt.parity.case import BF16, FP32_EXTREME, NEWTON_SCHULZ, Case, Draw, exact_in_bf16, fixed, in_bf16


def array_cases(draw: Draw) -> Iterator[Case]:
    """Making, casting, joining and changing arrays, and the operators that frameworks share."""
    x, y, n, flag = draw.normal(2, 3, 5), draw.normal(2, 3, 5), draw.ints(9, 2, 3, 5), draw.bools(3, 5)
    yield fixed("array: float64 becomes float32", (), lambda b: b.array(np.array([0.5, 2.0])))
    yield fixed("array: int64 becomes int32", (), lambda b: b.array(np.array([3, -4])), "int32")
    yield fixed("array: uint16 becomes int32", (), lambda b: b.array(np.array([3, 65535], np.uint16)), "int32")
    yield fixed("array: list as bfloat16", (), lambda b: b.array([1.0, 2.5], "bfloat16"), "bfloat16")
    yield fixed("zeros", (), lambda b: [b.zeros((2, 3)), b.zeros((1,), "int32")], ("float32", "int32"))
    yield fixed("zeros_like", (x,), lambda b, x: b.zeros_like(x))
    yield fixed("arange", (), lambda b: b.arange(3, 9), "int32")

    odd = draw.positive(8) * np.float32(1.001)  # not exact in 16 bits
    yield Case("cast: to bfloat16", (odd,), lambda b, x: b.cast(x, "bfloat16"), "bfloat16", bound=BF16)
    yield Case("cast: to float16", (odd,), lambda b, x: b.cast(x, "float16"), "float16", bound=2.0**-10)
    yield fixed("cast: to int drops the fraction", (draw.normal(9, scale=4),), lambda b, x: b.cast(x, "int32"), "int32")
    yield fixed("cast: int and bool to float", (n, flag), lambda b, *x: [b.cast(a, "float32") for a in x])

    places = np.array([3, 0, 3, 1, 0, 3], np.int32)
    yield fixed("argsort", (np.array([5, 40, -3, 7, 6], np.int32),), lambda b, x: b.argsort(x), "int32")
    yield Case("add_rows", (Draw(seed=14).normal(6, 4), places), lambda b, v, r: b.add_rows(v, r, 5))
    yield Case("split", (Draw(seed=15).normal(6, 4),), lambda b, x: b.split(x, [2, 0, 3, 1]))
    yield Case("concat", (x, y), lambda b, x, y: [b.concat([x, y], 0), b.concat([y, x, y], -1)])
    yield Case("where: arrays", (flag, x, y), lambda b, f, x, y: b.where(f, x, y))
    yield Case("where: array and number", (flag, x), lambda b, f, x: [b.where(f, x, -2.0), b.where(f, 0.5, x)])
    yield in_bf16(Case("where: array and number", (flag, x), lambda b, f, x: b.where(f, x, -2.0)))
    yield Case("stop_gradient", (x,), lambda b, x: x * b.stop_gradient(x))
    yield fixed("write", (draw.normal(2, 2, 6, 3), draw.normal(2, 2, 2, 3)), lambda b, t, v: b.write(t, 3, v))
    other = Draw(seed=10)
    yield fixed("write: each row at a place of its own", (other.normal(2, 2, 6, 3), other.normal(2, 2, 2, 3)),
                lambda b, t, v: b.write(t, b.array([4, 1]), v))  # fmt: skip

    # What the model uses without going through the backend: operators and methods that the frameworks share.
    yield Case("operators: arithmetic", (x, y), lambda b, x, y: (x - 2 * y) * x / (1 + y * y) - y**2)
    yield in_bf16(Case("operators: numbers keep the dtype", (x,), lambda b, x: 1.5 * x / 3.0 + 2))
    yield Case("operators: matmul", (draw.normal(2, 3, 4), draw.normal(4, 6)), lambda b, x, w: x @ w)
    yield Case("operators: matmul, long sums", (draw.normal(4, 200), draw.normal(200, 4)), lambda b, x, w: x @ w)
    yield Case("operators: batched matmul", (draw.normal(2, 1, 3, 4), draw.normal(5, 4, 2)), lambda b, x, w: x @ w)
    yield Case("operators: shapes", (x,), lambda b, x: x.reshape(6, 5).swapaxes(0, 1)[1:, ::2][..., None])
    yield Case("operators: sums", (x,), lambda b, x: [x.sum(axis=-1, keepdims=True), x.mean(axis=1), x.sum()])
    yield fixed("operators: comparison", (n,), lambda b, n: [(n < 4) & (n != 2), n[:, 0] == n[:, 1]], "bool")


def elementwise_cases(draw: Draw) -> Iterator[Case]:
    """Functions of each entry, at usual and at extreme values."""
    x, far = draw.normal(3, 7, scale=2), np.array([-200.0, -90, -30, -1e-4, 0, 1e-4, 30, 90, 200], np.float32)
    for name in ("exp", "sin", "cos", "tanh", "erf", "silu", "gelu", "log_sigmoid"):
        yield Case(name, (x,), lambda b, x, name=name: getattr(b, name)(x))
    yield Case("gelu: approximate", (x,), lambda b, x: b.gelu(x, approximate=True))
    for name in ("log", "sqrt"):
        yield Case(name, (draw.positive(3, 7),), lambda b, x, name=name: getattr(b, name)(x))
    yield Case("relu", (x + 0.01,), lambda b, x: b.relu(x))
    yield Case("operators: abs", (x + 0.01,), lambda b, x: abs(x))
    for name in ("tanh", "erf", "silu", "gelu", "log_sigmoid"):
        yield Case(f"{name}: extremes", (far,), lambda b, x, name=name: getattr(b, name)(x))
    yield Case("gelu: approximate, extremes", (far,), lambda b, x: b.gelu(x, approximate=True))
    for name in ("silu", "gelu"):
        yield in_bf16(Case(name, (x,), lambda b, x, name=name: getattr(b, name)(x)))
    yield in_bf16(Case("gelu: approximate", (x,), lambda b, x: b.gelu(x, approximate=True)))
    yield in_bf16(Case("log_sigmoid", (x,), lambda b, x: b.log_sigmoid(x)))


def reduction_cases(draw: Draw) -> Iterator[Case]:
    """Maxima, sums, softmax."""
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
        yield in_bf16(Case(name, (exact_in_bf16(x),), lambda b, x, name=name: getattr(b, name)(x)))


def indexing_cases(draw: Draw) -> Iterator[Case]:
    """Rows and entries by their position, and the largest ones."""
    table, x = draw.normal(7, 3), draw.distinct(2, 3, 8)
    ids = np.array([[0, 6, 6, 2], [5, 0, 6, 1]], np.int32)  # rows that repeat add up in the gradient
    yield Case("take: (N, D) at (B, T)", (table, ids), lambda b, x, i: b.take(x, i))
    yield Case("take: (N,) at (B, T)", (draw.normal(7), ids), lambda b, x, i: b.take(x, i))
    yield Case("take: (N, A, D) at (T,)", (draw.normal(7, 2, 3), ids[0]), lambda b, x, i: b.take(x, i))
    yield Case("gather", (x, draw.ints(8, 2, 3, 5)), lambda b, x, i: b.gather(x, i))
    yield Case("gather: positions from argmax", (x,), lambda b, x: b.gather(x, b.argmax(x, -1)[..., None]))
    for k in (1, 3, 8):
        yield Case(f"topk: {k} of 8, descending", (x,), lambda b, x, k=k: list(b.topk(x, k)), ("float32", "int32"))
    many = Draw(seed=16).distinct(3, 100)
    yield Case("topk: 5 of 100", (many,), lambda b, x: list(b.topk(x, 5)), ("float32", "int32"))
    yield Case("topk: gather at its positions", (x,), lambda b, x: b.gather(b.softmax(x), b.topk(x, 2)[1]))


def update_cases(draw: Draw) -> Iterator[Case]:
    """The optimizers' updates of lists of leaves."""

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
