"""What a framework must offer so that one model and one set of trainers run on it.

Arrays of the three frameworks (NumPy, MLX, torch) agree on operators, slicing, `.shape`, `.reshape`,
`.swapaxes` and `.sum/.mean(axis=, keepdims=)`; these are used as they are. Everything else goes through a
Backend: primitives that each framework spells in its own way, and composed defaults, written once here from
the primitives, that a backend overrides when it has a fused kernel. A dtype is a string: "float32",
"bfloat16", "float16", "int32", "bool".

Shapes: B batch, T tokens, H query heads, K key/value heads, D width of one head, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from backends import tree

Array = Any
MUON_GROUP = 1 << 22  # numbers in matrices that Muon treats together
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic from Jordan et al. 2024 ("Muon")


class BackendUnavailable(RuntimeError):
    """The framework is not installed here, or lacks the device that was asked for."""


class Backend(ABC):
    """One framework on one device. Holds no model state; safe to share between models of one thread."""

    name: str
    device: str  # "cpu" or "gpu"
    lazy = False  # whether an operation only notes what is to be computed

    # ---- arrays ------------------------------------------------------------------------------------------

    @abstractmethod
    def array(self, values: Any, dtype: str | None = None) -> Array:
        """A backend array from a NumPy array, list or number; 64-bit values become 32-bit."""

    @abstractmethod
    def numpy(self, x: Array) -> np.ndarray:
        """A NumPy copy of `x`; bfloat16 becomes float32, which holds it exactly."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Array: ...

    @abstractmethod
    def arange(self, start: int, stop: int) -> Array:
        """int32 numbers start … stop-1."""

    @abstractmethod
    def cast(self, x: Array, dtype: str) -> Array: ...

    @abstractmethod
    def dtype(self, x: Array) -> str: ...

    @abstractmethod
    def concat(self, arrays: list[Array], axis: int) -> Array: ...

    @abstractmethod
    def stack(self, arrays: list[Array]) -> Array:
        """Join along a new first axis."""

    @abstractmethod
    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array: ...

    @abstractmethod
    def stop_gradient(self, x: Array) -> Array: ...

    def write(self, target: Array, start: int, values: Array) -> Array:
        """`target` with `values` at positions start … along axis 2; the old `target` must not be used again."""
        target[:, :, start : start + values.shape[2]] = values
        return target

    # ---- elementwise and reductions ----------------------------------------------------------------------

    @abstractmethod
    def exp(self, x: Array) -> Array: ...

    @abstractmethod
    def log(self, x: Array) -> Array: ...

    @abstractmethod
    def sqrt(self, x: Array) -> Array: ...

    @abstractmethod
    def sin(self, x: Array) -> Array: ...

    @abstractmethod
    def cos(self, x: Array) -> Array: ...

    @abstractmethod
    def tanh(self, x: Array) -> Array: ...

    @abstractmethod
    def erf(self, x: Array) -> Array: ...

    @abstractmethod
    def abs(self, x: Array) -> Array: ...

    @abstractmethod
    def amax(self, x: Array, axis: int, keepdims: bool = False) -> Array: ...

    @abstractmethod
    def argmax(self, x: Array, axis: int) -> Array:
        """int32 position of the largest value."""

    @abstractmethod
    def cumsum(self, x: Array, axis: int) -> Array: ...

    # ---- indexing ----------------------------------------------------------------------------------------

    @abstractmethod
    def take(self, x: Array, indices: Array) -> Array:
        """Rows of `x` (N, …) at integer `indices` (any shape): shape indices.shape + x.shape[1:]."""

    @abstractmethod
    def gather(self, x: Array, indices: Array) -> Array:
        """Along the last axis: x (…, N), indices (…, M) -> (…, M). No gradient flows to the indices."""

    @abstractmethod
    def topk(self, x: Array, k: int) -> tuple[Array, Array]:
        """The k largest along the last axis in descending order, and their int32 positions (no gradient)."""

    # ---- life cycle --------------------------------------------------------------------------------------

    @abstractmethod
    def value_and_grad(self, fn: Callable, compiled: bool = False) -> Callable:
        """For `fn(weights, *args) -> (scalar, aux)` the function that returns `((scalar, aux), gradients)`.

        The gradients are a tree like `weights`; leaves that `fn` does not use, and integer leaves, get zeros.
        With `compiled` the backend may trace `fn`: it must then depend on its arguments only (arrays that it
        closes over are baked in as constants) and be called with few different shapes.
        """

    @abstractmethod
    def checkpoint(self, fn: Callable) -> Callable:
        """`fn` whose inner activations are recomputed in the backward pass instead of stored.

        Every array that needs a gradient must be an argument: MLX gives closed-over arrays a zero gradient.
        """

    def inference(self) -> AbstractContextManager:
        """Within it nothing is kept for a gradient; arrays that are born in it must not be trained with."""
        return nullcontext()

    @abstractmethod
    def compile(self, fn: Callable) -> Callable:
        """A traced `fn` where that pays on this device, else `fn`. Same rules as `value_and_grad(compiled=True)`."""

    def compile_update(self, fn: Callable) -> Callable:
        """`compile` for a function that only calls this backend's updates."""
        return self.compile(fn)

    @abstractmethod
    def scalar(self, value: float) -> Any:
        """`value` in the form that a compiled function takes as an argument instead of baking it in."""

    @abstractmethod
    def sync(self, *trees: Any) -> None:
        """Compute the arrays of `trees` now, so that what follows is timed or freed honestly."""

    def begin(self, *trees: Any) -> None:
        """`sync`, or less where the arrays of `trees` are computed while the program goes on."""
        self.sync(*trees)

    def start(self, x: Array) -> None:  # noqa: B027 - most have nothing to do
        """Have `x` computed while the program goes on. Never waits, as `begin` may: that one ends a training step."""

    def lanes(self) -> list[AbstractContextManager]:
        """Contexts for parts of a batch that are computed side by side: more than one where an operation of the
        framework keeps one core busy and leaves the others idle.
        """
        return [nullcontext()]

    def nonzero(self, mask: Array) -> Array | None:
        """The places (n,) of the true entries of `mask`, counted through all axes; None where a traced function would
        have to know them before it is computed.
        """
        return None

    def after(self, x: Array, earlier: list[Array]) -> Array:
        """`x`, computed only when `earlier` are: a lazy framework would otherwise hold the work of both at once."""
        return x

    def repeat_exactly(self, wanted: bool) -> None:  # noqa: B027 - most need nothing
        """Whether the same computation must give the same bits every time, where that is not so by itself."""

    @abstractmethod
    def memory(self) -> dict[str, int]:
        """Bytes: {"active": …, "peak": …} as far as the framework counts them (zeros where it does not)."""

    @abstractmethod
    def set_limits(self, memory: int | None = None, cache: int | None = None, threads: int | None = None) -> None:
        """Bound the framework's memory and cache (bytes) and its CPU threads where it can be told to."""

    @abstractmethod
    def clear_cache(self) -> None: ...

    @abstractmethod
    def shares_memory(self) -> bool:
        """Whether arrays live in the machine's main memory (CPUs and Apple's GPUs), not in a GPU's own."""

    @abstractmethod
    def fast_bfloat16(self) -> bool:
        """Whether a GPU computes bfloat16 natively (Apple's M1 and M2 emulate it). CPUs stay exact unless asked."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Names and versions of what computes here, for reports."""

    # ---- composed defaults -------------------------------------------------------------------------------

    def sigmoid(self, x: Array) -> Array:
        return 0.5 * (self.tanh(0.5 * x) + 1.0)

    def silu(self, x: Array) -> Array:
        """x * sigmoid(x) (Elfwing et al. 2017)."""
        return x * self.sigmoid(x)

    def log_sigmoid(self, x: Array) -> Array:
        """log(1 / (1 + exp(-x))) without overflow on either side."""
        return 0.5 * (x - self.abs(x)) - self.log(1.0 + self.exp(-self.abs(x)))

    def softmax(self, x: Array) -> Array:
        """Over the last axis."""
        shifted = self.exp(x - self.stop_gradient(self.amax(x, axis=-1, keepdims=True)))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    def logsumexp(self, x: Array) -> Array:
        """Over the last axis, which disappears."""
        peak = self.stop_gradient(self.amax(x, axis=-1, keepdims=True))
        return self.log(self.exp(x - peak).sum(axis=-1)) + peak[..., 0]

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / sqrt(mean(x²) + eps) * weight over the last axis, computed in float32 (Zhang & Sennrich 2019)."""
        wide = self.cast(x, "float32")
        scaled = wide / self.sqrt((wide * wide).mean(axis=-1, keepdims=True) + eps)
        return self.cast(scaled, self.dtype(x)) * self.cast(weight, self.dtype(x))

    def layer_norm(self, x: Array, weight: Array, bias: Array, eps: float) -> Array:
        """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, in float32 (Ba et al. 2016)."""
        wide = self.cast(x, "float32")
        centred = wide - wide.mean(axis=-1, keepdims=True)
        scaled = centred / self.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
        return self.cast(scaled, self.dtype(x)) * self.cast(weight, self.dtype(x)) + self.cast(bias, self.dtype(x))

    def gelu(self, x: Array) -> Array:
        """x Φ(x) with the normal distribution's own Φ (Hendrycks & Gimpel 2016)."""
        return 0.5 * x * (1.0 + self.erf(x * 0.5**0.5))

    def gelu_tanh(self, x: Array) -> Array:
        """The approximation of gelu that GPT-2 was trained with ("gelu_new"); up to 5e-4 from the exact one."""
        return 0.5 * x * (1.0 + self.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))

    def rope(self, x: Array, offset: int, theta: float | tuple[float, ...]) -> Array:
        """Rotate x (B, H, T, D) by its positions offset … offset+T-1 (Su et al. 2021, eq. 34).

        The two halves of D are the two coordinates, as in Hugging Face's layout. Instead of `theta` the radians
        per position (D/2,) may be given.
        """
        half = x.shape[-1] // 2
        frequencies = self.array(rope_frequencies(theta, half))  # (D/2,)
        positions = self.cast(self.arange(offset, offset + x.shape[-2]), "float32")  # (T,)
        angles = positions[:, None] * frequencies[None, :]  # (T, D/2)
        cos, sin = self.cast(self.cos(angles), self.dtype(x)), self.cast(self.sin(angles), self.dtype(x))
        a, b = x[..., :half], x[..., half:]
        return self.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def attention(self, q: Array, k: Array, v: Array, scale: float, mask: Array | str | None = "causal") -> Array:
        """softmax(q kᵀ · scale) v with grouped heads: q (B, H, Tq, D), k and v (B, K, Tk, D) -> (B, H, Tq, D).

        `mask` is "causal" (the last query sees the last key, also when Tq < Tk), None (all see all) or a bool
        array that broadcasts to (B, H, Tq, Tk), True where attention is allowed; every row must allow one key.
        """
        batch, heads, queries, width = q.shape
        groups = k.shape[1]
        q = q.reshape(batch, groups, heads // groups, queries, width)  # (B, K, H/K, Tq, D)
        scores = self.cast((q * scale) @ k[:, :, None].swapaxes(-1, -2), "float32")  # (B, K, H/K, Tq, Tk)
        scores = scores.reshape(batch, heads, queries, -1)  # (B, H, Tq, Tk)
        if isinstance(mask, str):
            mask = self.causal_mask(queries, k.shape[2])
        if mask is not None:
            scores = self.where(mask, scores, -1e30)
        attended = self.cast(self.softmax(scores), self.dtype(v)).reshape(batch, groups, heads // groups, queries, -1)
        return (attended @ v[:, :, None]).reshape(batch, heads, queries, -1)

    def causal_mask(self, queries: int, keys: int) -> Array:
        """(Tq, Tk) bool, True where key j is not after query i when the last query aligns with the last key."""
        return self.arange(0, keys)[None, :] <= self.arange(keys - queries, keys)[:, None]

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """x (…, in) times weight (out, in) transposed, plus bias (out,)."""
        y = x @ self.cast(weight, self.dtype(x)).swapaxes(0, 1)
        return y if bias is None else y + self.cast(bias, self.dtype(x))

    def linears(self, x: Array, weights: list[Array], biases: list[Array | None]) -> list[Array]:
        """`linear` of one x (…, in) with several weights (out_i, in) and biases (out_i,): arrays (…, out_i)."""
        return [self.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    # ---- numbers in few bits: the affine layout of mlx.core.quantize -----------------------------------------
    #
    # A row of N numbers is cut into groups; a group has a scale and a bias, and number k is code_k * scale + bias.
    # 32 / bits codes share one 32-bit word, the first in its lowest bits. Here a word is an int32 with these bits.

    def quantize(self, x: Array, bits: int, group_size: int) -> tuple[Array, Array, Array]:
        """x (…, N) -> (packed (…, N * bits / 32), scales (…, N / group_size), biases (…, N / group_size)).

        `bits` is 4 or 8 and `group_size` divides N. The largest number of a group, by size, keeps its value, and
        so does 0 in a group with both signs.
        """
        groups = x.reshape(*x.shape[:-1], -1, group_size)
        high, low = self.amax(groups, axis=-1), -self.amax(-groups, axis=-1)
        steps = 2**bits - 1
        scale = (high - low) / steps
        scale = self.where(scale > 1e-7, scale, 1e-7)
        downwards = self.abs(low) <= self.abs(high)  # the codes count from the edge that is further from 0
        scale = self.where(downwards, -scale, scale)
        edge = self.where(downwards, high, low)
        count = self._round(edge / scale)
        scale = self.where(count != 0, edge / self.where(count != 0, count, 1.0), scale)
        bias = self.where(count != 0, edge, 0.0 * edge)
        codes = self._round((groups - bias[..., None]) / scale[..., None])
        codes = self.where(codes < 0, 0.0, self.where(codes > steps, float(steps), codes))
        words = self.cast(codes, "int32").reshape(*x.shape[:-1], -1, 32 // bits) << self._shifts(bits)
        return self.cast(words.sum(axis=-1), "int32"), scale, bias

    def dequantize(self, packed: Array, scales: Array, biases: Array, bits: int) -> Array:
        """What `quantize` packed, (…, N), in the dtype of `scales`."""
        codes = (packed[..., None] >> self._shifts(bits)) & (2**bits - 1)  # (…, words, 32 / bits)
        codes = self.cast(codes, self.dtype(scales)).reshape(*scales.shape, -1)  # (…, groups, group_size)
        return (codes * scales[..., None] + biases[..., None]).reshape(*packed.shape[:-1], -1)

    def quantized_linear(
        self, x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None
    ) -> Array:
        """x (…, in) times the quantized weight (out, in) transposed, plus bias (out,).

        The gradient flows to x and to `bias`; the quantized weight is frozen.
        """
        bits = 32 * packed.shape[-1] // x.shape[-1]
        scales, biases = (self.cast(self.stop_gradient(leaf), self.dtype(x)) for leaf in (scales, biases))
        return self.linear(x, self.dequantize(packed, scales, biases, bits), bias)

    def fast_quantized(self) -> bool:
        """Whether `quantized_linear` is faster than `linear` with float weights here."""
        return False

    def int8_matrix(self, weight: np.ndarray) -> Any | None:
        """A float32 matrix (out, in) in 8 bits, a scale per row, for `int8_linears`; None where it has none."""
        return None

    def int8_linears(self, x: Array, matrices: list[Any], biases: list[Array | None]) -> list[Array]:
        """`linears` with each row of x (…, in) rounded to 8 bits, and the `int8_matrix` (out_i, in) of each weight.

        For answers only: it has no gradient.
        """
        raise NotImplementedError

    def _shifts(self, bits: int) -> Array:
        return self.arange(0, 32 // bits) * bits

    def _round(self, x: Array) -> Array:
        """To the nearest whole number; halves away from 0."""
        away = self.where(x < 0, -0.5, 0.5)
        return self.cast(self.cast(x + away, "int32"), self.dtype(x))

    def token_nll(self, logits: Array, targets: Array) -> Array:
        """-log softmax(logits)[target] per token: (B, T, V), int (B, T) -> float32 (B, T), not reduced."""
        logits = self.cast(logits, "float32")
        return self.logsumexp(logits) - self.gather(logits, targets[..., None])[..., 0]

    def chunked_nll(self, hidden: Array, weight: Array, targets: Array, size: int) -> Array:
        """`token_nll` of the logits hidden (N, d) · weight (V, d)ᵀ for targets (N,), `size` tokens at a time: (N,).

        No more than `size` rows of logits exist at once, forwards and backwards; they are computed twice.
        """
        part = self.checkpoint(lambda w, x, t: self.token_nll(self.linear(x, w), t))
        starts = range(0, hidden.shape[0], size)
        return self.concat([part(weight, hidden[i : i + size], targets[i : i + size]) for i in starts], axis=0)

    # ---- composed updates: lists of leaves in, lists of leaves out; the old lists must not be used again ------

    def add_lists(self, totals: list[Array], terms: list[Array]) -> list[Array]:
        """Elementwise sum of two lists of arrays (gradient accumulation)."""
        return [a + b for a, b in zip(totals, terms, strict=True)]

    def clip_by_global_norm(self, grads: list[Array], max_norm: float) -> tuple[list[Array], Array]:
        """Scale all gradients so that their joint L2 norm is at most `max_norm` (0: no clipping).

        Returns the gradients and the norm before clipping (Pascanu et al. 2013).
        """
        squares = [self._sum(self.cast(g, "float32") * self.cast(g, "float32")) for g in grads]
        norm = self.sqrt(self.stack(squares).sum())
        if max_norm <= 0:
            return grads, norm
        scale = max_norm / self.where(norm > max_norm, norm, max_norm)
        return [g * scale for g in grads], norm

    def _sum(self, x: Array) -> Array:
        """All numbers, row by row: added one after the other (MLX on CPUs), a million lose four digits."""
        return x.sum(axis=-1).sum() if len(x.shape) > 1 else x.sum()

    def adamw_update(
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
            p * (1 - lr * decay) - (lr / correction1) * m / (self.sqrt(v / correction2) + eps)
            for p, m, v, decay in zip(params, first, second, decays, strict=True)
        ]
        return params, first, second

    def muon_update(
        self, params: list, grads: list, momentum: list, *, lr, beta: float, decay: float, steps: int = 5,
        dtype: str = "float32",
    ) -> tuple[list, list]:
        """One Muon step on matrices (Jordan et al. 2024): Nesterov momentum, then the nearest orthogonal matrix.

        M ← β M + (1-β) g;  U = orthogonalize((1-β) g + β M);  p ← p (1 - lr·decay) - lr · √max(1, out/in) · U.
        Matrices of the same shape are stacked and orthogonalized together in `dtype`, MUON_GROUP numbers at once:
        its temporaries are six times as large. Returns (p, M), float32 as they were.
        """
        new_params, new_momentum = list(params), list(momentum)
        done: list[Array] = []
        for indices in by_shape(grads, MUON_GROUP):
            slopes = [self.after(grads[i], done) for i in indices]
            done = [beta * momentum[i] + (1 - beta) * g for i, g in zip(indices, slopes, strict=True)]
            looked_ahead = self.stack([(1 - beta) * g + beta * m for m, g in zip(done, slopes, strict=True)])
            updates = self.orthogonalize(looked_ahead, steps, dtype)  # (n, out, in)
            scale = max(1.0, updates.shape[-2] / updates.shape[-1]) ** 0.5
            for position, i in enumerate(indices):
                new_momentum[i] = done[position]
                new_params[i] = params[i] * (1 - lr * decay) - (lr * scale) * updates[position]
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
        x = self.cast(x / (self.sqrt((x * x).sum(axis=(-2, -1), keepdims=True)) + 1e-7), dtype)
        for _ in range(steps):
            square = x @ x.swapaxes(-1, -2)
            x = a * x + (b * square + c * (square @ square)) @ x
        return self.cast(x.swapaxes(-1, -2) if tall else x, "float32")


def by_group(q: Array, k: Array, mask: Array | None) -> Array | None:
    """One query q (B, H, 1, D) as the queries of its group's single head (B, K, H/K, D), so that keys are read once.

    None where that is not the same: several queries, heads without groups, a mask that differs between heads.
    """
    batch, heads, queries, width = q.shape
    if queries > 1 or heads == k.shape[1] or not (mask is None or mask.ndim < 3 or mask.shape[-3] == 1):
        return None
    return q.reshape(batch, k.shape[1], heads // k.shape[1], width)


def rope_frequencies(theta: float | tuple[float, ...], half: int) -> np.ndarray:
    """Radians per position (D/2,) float32 for theta, or for frequencies that were given as they are."""
    plain = theta if isinstance(theta, tuple) else theta ** (-np.arange(half) / half)
    return np.asarray(plain, np.float32)


def by_shape(arrays: list[Array], most: int) -> list[list[int]]:
    """Positions of arrays of the same shape, together at most `most` numbers or a single array."""
    groups: dict[tuple, list[list[int]]] = {}
    for i, x in enumerate(arrays):
        shape = tuple(x.shape)
        found = groups.setdefault(shape, [[]])
        if found[-1] and (len(found[-1]) + 1) * int(np.prod(shape)) > most:
            found.append([])
        found[-1].append(i)
    return [indices for found in groups.values() for indices in found]


def count(weights: tree.Tree) -> int:
    """Numbers in all leaves of a tree (the parameter count of a model)."""
    total = 0
    for leaf in tree.leaves(weights):
        size = 1
        for extent in leaf.shape:
            size *= extent
        total += size
    return total
