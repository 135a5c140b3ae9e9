"""The optimizers' arithmetic: lists of leaves in, lists of leaves out. The old lists must not be used again."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.tree import Array

if TYPE_CHECKING:
    from backends.base import Backend

MUON_GROUP = 1 << 22  # entries of matrices that Muon treats together
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic from Jordan et al. 2024 ("Muon")


class Updates:
    """Sums, clipping, AdamW and Muon as formulas; a backend overrides them where it updates in place."""

    def __init__(self, backend: "Backend"):
        self.backend = backend

    def compile(self, fn: Callable) -> Callable:
        """`Backend.compile` for a function that only calls these updates."""
        return self.backend.compile(fn)

    def scalar(self, value: float) -> Any:
        """`value` in the form that a compiled function takes as an argument instead of baking it in."""
        return value

    def add(self, totals: list[Array], terms: list[Array]) -> list[Array]:
        """Elementwise sum of two lists of arrays (gradient accumulation)."""
        return [a + b for a, b in zip(totals, terms, strict=True)]

    def clip(self, grads: list[Array], max_norm: float) -> tuple[list[Array], Array]:
        """Scale all gradients so that their joint L2 norm is at most `max_norm` (0: no clipping).

        Returns the gradients and the norm before clipping (Pascanu et al. 2013).
        """
        backend = self.backend
        squares = [self._sum(backend.cast(g, "float32") * backend.cast(g, "float32")) for g in grads]
        norm = backend.sqrt(self._stack(squares).sum())
        if max_norm <= 0:
            return grads, norm
        scale = max_norm / backend.where(norm > max_norm, norm, max_norm)
        return [g * scale for g in grads], norm

    def adamw(
        self, params: list, grads: list, first: list, second: list, *, lr, correction1, correction2,
        beta1: float, beta2: float, eps: float, decays: list[float],
    ) -> tuple[list, list, list]:
        """One AdamW step (Loshchilov & Hutter 2019, algorithm 2) on float32 leaves.

        m ← β1 m + (1-β1) g;  v ← β2 v + (1-β2) g²;  p ← p (1 - lr·decay) - lr · (m / c1) / (√(v / c2) + eps),
        with the bias corrections c1 = 1 - β1^t and c2 = 1 - β2^t given by the caller. Returns (p, m, v).
        """
        first = [beta1 * m + (1 - beta1) * g for m, g in zip(first, grads, strict=True)]
        second = [beta2 * v + (1 - beta2) * (g * g) for v, g in zip(second, grads, strict=True)]
        params = [
            p * (1 - lr * decay) - (lr / correction1) * m / (self.backend.sqrt(v / correction2) + eps)
            for p, m, v, decay in zip(params, first, second, decays, strict=True)
        ]
        return params, first, second

    def muon(
        self, params: list, grads: list, momentum: list, *, lr, beta: float, decay: float, steps: int = 5,
        dtype: str = "float32",
    ) -> tuple[list, list]:
        """One Muon step on matrices (Jordan et al. 2024): Nesterov momentum, then the nearest orthogonal matrix.

        M ← β M + (1-β) g;  U = orthogonalize((1-β) g + β M);  p ← p (1 - lr·decay) - lr · √max(1, out/in) · U.
        Matrices of the same shape are stacked and orthogonalized together in `dtype`, MUON_GROUP entries at once:
        its temporaries are six times as large. Returns (p, M), float32 as they were.
        """
        new_params, new_momentum = list(params), list(momentum)
        done: list[Array] = []
        for indices in by_shape(grads, MUON_GROUP):
            group = [self._after(grads[i], done) for i in indices]
            done = [beta * momentum[i] + (1 - beta) * g for i, g in zip(indices, group, strict=True)]
            looked_ahead = self._stack([(1 - beta) * g + beta * m for m, g in zip(done, group, strict=True)])
            updates = self.orthogonalize(looked_ahead, steps, dtype)  # (n, out, in)
            scale = max(1.0, updates.shape[-2] / updates.shape[-1]) ** 0.5
            for place, i in enumerate(indices):
                new_momentum[i] = done[place]
                new_params[i] = params[i] * (1 - lr * decay) - (lr * scale) * updates[place]
            done = [new_params[i] for i in indices]
        return new_params, new_momentum

    def orthogonalize(self, x: Array, steps: int, dtype: str = "float32") -> Array:
        """Singular values of each matrix in x (n, rows, columns) pushed towards 1 by a quintic Newton–Schulz iteration.

        Singular values end in about [0.7, 1.2]; bfloat16, the authors' choice, is exact enough for that. The result is
        float32.
        """
        a, b, c = NEWTON_SCHULZ
        tall = x.shape[-2] > x.shape[-1]
        x = x.swapaxes(-1, -2) if tall else x
        x = self.backend.cast(x / (self.backend.sqrt((x * x).sum(axis=(-2, -1), keepdims=True)) + 1e-7), dtype)
        for _ in range(steps):
            square = x @ x.swapaxes(-1, -2)
            x = a * x + (b * square + c * (square @ square)) @ x
        return self.backend.cast(x.swapaxes(-1, -2) if tall else x, "float32")

    def _stack(self, arrays: list[Array]) -> Array:
        return self.backend.concat([x[None] for x in arrays], 0)

    def _sum(self, x: Array) -> Array:
        """All entries, row by row: added one after the other (MLX on CPUs), a million lose four digits."""
        return x.sum(axis=-1).sum() if len(x.shape) > 1 else x.sum()

    def _after(self, x: Array, earlier: list[Array]) -> Array:
        """`x`, computed only when `earlier` are: a lazy framework would otherwise hold the work of both at once."""
        return x


def by_shape(arrays: list[Array], most: int) -> list[list[int]]:
    """Positions of arrays of the same shape, together at most `most` entries or a single array."""
    groups: dict[tuple, list[list[int]]] = {}
    for i, x in enumerate(arrays):
        shape = tuple(x.shape)
        found = groups.setdefault(shape, [[]])
        if found[-1] and (len(found[-1]) + 1) * int(np.prod(shape)) > most:
            found.append([])
        found[-1].append(i)
    return [indices for found in groups.values() for indices in found]
