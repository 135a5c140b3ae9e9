"""The loss of a large vocabulary in chunks, one after the other."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import mlx.core as mx

from backends.tree import Array

if TYPE_CHECKING:
    from backends.base import Backend


def after(x: Array, earlier: list[Array]) -> Array:
    """`x`, computed only when `earlier` are: MLX would compute both side by side."""
    return mx.depends([x], earlier)[0] if earlier else x


def chunked_nll(backend: "Backend", size: int) -> Callable:
    """The function of (x, w, targets). Each chunk waits for the one before."""

    def chunks(x: Array) -> list[slice]:
        return [slice(i, i + size) for i in range(0, x.shape[0], size)]

    @mx.custom_function
    def nll(x: Array, w: Array, targets: Array) -> Array:
        losses: list[Array] = []
        for here in chunks(x):
            rows = after(x[here], losses[-1:])
            losses.append(backend.token_nll((rows @ w.T)[None], targets[here][None])[0])
        return mx.concatenate(losses)

    @nll.vjp
    def grads(primals: tuple, upstream: Array, output: Array) -> tuple:
        x, w, targets = primals
        dx: list[Array] = []
        dw = mx.zeros(w.shape, mx.float32)
        for here in chunks(x):
            rows = after(x[here], [dw, *dx[-1:]])
            predicted = mx.softmax((rows @ w.T).astype(mx.float32), axis=-1)
            right = mx.arange(w.shape[0])[None, :] == targets[here][:, None]
            dlogits = ((predicted - right) * upstream[here][:, None]).astype(x.dtype)  # (size, V)
            dx.append(dlogits @ w)
            dw = dw + dlogits.T @ rows
        return mx.concatenate(dx), dw.astype(w.dtype), mx.zeros_like(targets)

    return nll
