"""What a framework must offer so that one model and one set of trainers run on it: the executable specification.

Arrays of the three frameworks (NumPy, MLX, torch) agree on operators, slicing, `abs`, `.shape`, `.reshape`,
`.swapaxes` and `.sum/.mean(axis=, keepdims=)`; these are used as they are. Everything else goes through a Backend:
abstract operations that each framework spells in its own way, and operations with a formula, written once here from
the abstract ones, that a backend overrides where it has a fused kernel. A new backend writes the abstract ones, is
compared with NumPy by `minigpt.parity`, and then overrides what is slow.

Three groups have a file each: `updates` (the optimizers' arithmetic), `quantized` (matrices in few bits) and `runtime`
(memory, limits, versions). A dtype is a string: "float32", "bfloat16", "float16", "int32", "uint8", "bool".

Shapes: B batch, T tokens, H query heads, K key/value heads, D width of one head, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.group import ALONE, Group, Launched
from backends.quantized import Quantized
from backends.runtime import Runtime
from backends.tree import Array
from backends.updates import Updates


class BackendUnavailable(RuntimeError):
    """The framework is not installed here, or lacks the device that was asked for."""


@dataclass(frozen=True)
class Visible:
    """Which keys a query may attend to: made once for a pass by `Backend.visible` and used by all layers.

    `mask` is a bool array that broadcasts to (B, H, Tq, Tk), True where attention is allowed; every query may see one
    key at least. Without a mask `causal` says whether a query sees the keys up to its own place, the last query that
    of the last key, or all of them. A backend may make a subclass that says more.
    """

    mask: Array | None = None
    causal: bool = False
    bias: Array | None = None  # float32 (H, Tq, Tk) or (B, H, Tq, Tk) that is added to the scores; the mask is in it


CAUSAL = Visible(causal=True)
ALL = Visible()


class Backend(ABC):
    """One framework on one device. Holds no model state; safe to share between models of one thread."""

    name: str
    device: str  # "cpu" or "gpu"
    lazy = False  # whether an operation only notes what is to be computed, until `sync` or a read
    gathers = False  # whether `gather_linear` is one product, faster than one for each matrix
    gathers_few = False  # the same for some rows that have a matrix each
    lanes = 1  # pieces that `side_by_side` computes at the same time
    group: Group = ALONE  # the processes that train together, while they do (see `grouped`)

    # ---- arrays ------------------------------------------------------------------------------------------

    @abstractmethod
    def array(self, values: Any, dtype: str | None = None) -> Array:
        """A backend array from a NumPy array, list or number; 64-bit values become 32-bit."""

    @abstractmethod
    def numpy(self, x: Array) -> np.ndarray:
        """A NumPy copy of `x`; bfloat16 becomes float32, which holds it exactly."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: str = "float32") -> Array: ...

    def zeros_like(self, x: Array) -> Array:
        """float32 zeros in the shape of `x`, shared out between processes as it is."""
        return self.zeros(tuple(x.shape))

    @abstractmethod
    def arange(self, start: int, stop: int) -> Array:
        """int32 values start … stop-1."""

    @abstractmethod
    def cast(self, x: Array, dtype: str) -> Array: ...

    @abstractmethod
    def dtype(self, x: Array) -> str: ...

    @abstractmethod
    def concat(self, arrays: list[Array], axis: int) -> Array: ...

    @abstractmethod
    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array: ...

    # ---- indexing ----------------------------------------------------------------------------------------

    @abstractmethod
    def take(self, x: Array, indices: Array) -> Array:
        """Rows of `x` (N, …) at integer `indices` (any shape): shape indices.shape + x.shape[1:]."""

    def split(self, x: Array, sizes: Sequence[int]) -> list[Array]:
        """`x` (N, …) in parts of so many rows, one after the other; the sizes add up to N."""
        ends = np.cumsum(sizes).tolist()
        return [x[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    @abstractmethod
    def gather(self, x: Array, indices: Array) -> Array:
        """Along the last axis: x (…, N), indices (…, M) -> (…, M). No gradient flows to the indices."""

    @abstractmethod
    def topk(self, x: Array, k: int) -> tuple[Array, Array]:
        """The k largest along the last axis in descending order, and their int32 positions (no gradient)."""

    def argsort(self, x: Array) -> Array:
        """int32 positions of x (N,) in ascending order; no two entries may be alike."""
        return self.topk(-1 * x, x.shape[0])[1]

    def add_rows(self, values: Array, rows: Array, count: int) -> Array:
        """(count, d): row i is the sum of those of `values` (P, d) whose entry in `rows` (P,) is i."""
        return self.cast(self.arange(0, count)[:, None] == rows[None, :], self.dtype(values)) @ values

    def nonzero(self, mask: Array) -> Array | None:
        """The places (n,) of the true entries of `mask`, counted through all axes; None where a traced function would
        have to know them before it is computed.
        """
        return None

    def write(self, target: Array, start: int | Array, values: Array) -> Array:
        """`target` (S, K, N, D) with `values` (B, K, T, D) at places start … start+T-1 of the third axis.

        The values are those of the first B rows of S. `start` is one number, or (B,) int32 for rows that are filled
        up differently far. The old `target` must not be used again.
        """
        if isinstance(start, int):
            target[: values.shape[0], :, start : start + values.shape[2]] = values
            return target
        places = start[:, None] + self.arange(0, values.shape[2])  # (B, T)
        target[self.arange(0, places.shape[0])[:, None], :, places] = values.swapaxes(1, 2)  # (B, T, K, D)
        return target

    # ---- arithmetic --------------------------------------------------------------------------------------

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
    def amax(self, x: Array, axis: int, keepdims: bool = False) -> Array: ...

    @abstractmethod
    def argmax(self, x: Array, axis: int) -> Array:
        """int32 position of the largest value."""

    @abstractmethod
    def cumsum(self, x: Array, axis: int) -> Array: ...

    # ---- functions of neural networks --------------------------------------------------------------------

    def relu(self, x: Array) -> Array:
        """The larger of x and 0."""
        return self.where(x > 0, x, 0.0)

    def silu(self, x: Array) -> Array:
        """x / (1 + exp(-x)) (Elfwing et al. 2017)."""
        return x * (0.5 * (self.tanh(0.5 * x) + 1.0))

    def gelu(self, x: Array, approximate: bool = False) -> Array:
        """x Φ(x) with the normal distribution's own Φ (Hendrycks & Gimpel 2016).

        With `approximate` the formula that GPT-2 was trained with ("gelu_new"), up to 5e-4 from the exact one.
        """
        if approximate:
            return 0.5 * x * (1.0 + self.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
        return 0.5 * x * (1.0 + self.erf(x * 0.5**0.5))

    def log_sigmoid(self, x: Array) -> Array:
        """log(1 / (1 + exp(-x))) without overflow on either side."""
        return 0.5 * (x - abs(x)) - self.log(1.0 + self.exp(-abs(x)))

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

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        """x (…, in) times weight (out, in) transposed, plus bias (out,)."""
        y = x @ self.cast(weight, self.dtype(x)).swapaxes(0, 1)
        return y if bias is None else y + self.cast(bias, self.dtype(x))

    def linears(self, x: Array, weights: list[Array], biases: list[Array | None]) -> list[Array]:
        """`linear` of one x (…, in) with several weights (out_i, in) and biases (out_i,): arrays (…, out_i)."""
        return [self.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    def gather_linear(self, x: Array, ids: Array, weights: Array) -> Array:
        """Row i of x (P, in) times matrix ids[i] of `weights` (E, out, in) transposed: (P, out); `ids` (P,) ascend."""
        kept = [self.cast((ids == e)[:, None], self.dtype(x)) * self.linear(x, weights[e]) for e in range(len(weights))]
        return sum(kept[1:], kept[0])

    def rope(self, x: Array, positions: int | Array, theta: float | tuple[float, ...]) -> Array:
        """Rotate x (B, H, T, D) by the positions of its tokens (Su et al. 2021, eq. 34).

        `positions` is that of the first token, the same in all rows or (B,) int32, or (B, T) int32 has those of all.
        The two halves of D are the two coordinates, as in Hugging Face's layout. Instead of `theta` the radians per
        position (D/2,) may be given.
        """
        half, tokens = x.shape[-1] // 2, x.shape[-2]
        frequencies = self.array(rope_frequencies(theta, half))  # (D/2,)
        if isinstance(positions, int):
            places = self.arange(positions, positions + tokens)  # (T,)
        else:
            places = token_positions(self, positions, tokens)[:, None]  # (B, 1, T)
        angles = self.cast(places, "float32")[..., None] * frequencies  # (T, D/2) or (B, 1, T, D/2)
        cos, sin = self.cast(self.cos(angles), self.dtype(x)), self.cast(self.sin(angles), self.dtype(x))
        a, b = x[..., :half], x[..., half:]
        return self.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def visible(
        self, queries: int, keys: int, *, segments: Array | None = None, follows: Array | None = None,
        positions: Array | None = None, window: int = 0, sinks: int = 0, slopes: tuple[float, ...] = (),
    ) -> Visible:  # fmt: skip
        """What is true of the rows, in the form in which `attention` takes it: causal, and

        - `segments` (B, T): the example of each token, where several share a row; a query sees its own one
          (queries = keys);
        - `follows` (B, T): with segments, the example that a token's own one goes on from and which it sees too, or its
          own one: several answers may go on from one prompt. `positions` are then those of all tokens (B, T);
        - `positions` (B,) int32: the place of each row's first query among its keys, where rows differ in length;
          otherwise the last query has the place of the last key;
        - `window`: keys that a query sees at most, its own included (Beltagy et al. 2020); 0: all;
        - `sinks`: first keys of a text that are seen beside the window (Xiao et al. 2023);
        - `slopes`: what a key's score loses with each token of distance, for each head (Press et al. 2022).
        """
        narrowed = 0 < window < keys
        if segments is None and positions is None and not narrowed and not slopes:
            return CAUSAL
        key = self.arange(0, keys)[None, :]  # (1, Tk)
        query = self.arange(keys - queries, keys)[:, None]  # (Tq, 1)
        if positions is not None:
            query = token_positions(self, positions, queries)[:, None, :, None]  # (B, 1, Tq, 1)
        if follows is not None:
            key = positions[:, None, None, :]  # (B, 1, 1, T)
        mask = key <= query  # (Tq, Tk) or (B, 1, Tq, Tk)
        if segments is not None:
            own = segments[:, None, :, None] == segments[:, None, None, :]  # (B, 1, T, T)
            own = own if follows is None else own | (follows[:, None, :, None] == segments[:, None, None, :])
            mask = own & mask
        if slopes:
            falling = self.concat([self.zeros((1, 1, 1)) + slope for slope in slopes], 0)  # (H, 1, 1); may be traced
            bias = self.where(mask, self.cast(key - query, "float32") * falling, -1e30)
            return Visible(mask, bias=bias)
        if not narrowed:
            return Visible(mask)
        near = key > query - window
        if sinks:
            place = key  # of a key in its text
            if segments is not None and follows is None:  # how many keys of its example are not after it
                place = self.cast(self.cast(mask, "int32").sum(axis=-1), "int32")[:, :, None, :] - 1  # (B, 1, 1, T)
            near = near | (place < sinks)
        return Visible(mask & near)

    def attention(
        self, q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0
    ) -> Array:
        """softmax(q kᵀ · scale) v with grouped heads: q (B, H, Tq, D), k and v (B, K, Tk, D) -> (B, H, Tq, D).

        With a `softcap` c scores x become c · tanh(x / c) (Gemma Team 2024), before a bias is added.
        """
        batch, heads, queries, width = q.shape
        groups = k.shape[1]
        q = q.reshape(batch, groups, heads // groups, queries, width)  # (B, K, H/K, Tq, D)
        scores = self.cast((q * scale) @ k[:, :, None].swapaxes(-1, -2), "float32")  # (B, K, H/K, Tq, Tk)
        scores = scores.reshape(batch, heads, queries, -1)  # (B, H, Tq, Tk)
        scores = softcap * self.tanh(scores * (1.0 / softcap)) if softcap else scores
        mask = causal_mask(self, queries, k.shape[2]) if visible.causal else visible.mask
        if visible.bias is not None:
            scores = scores + visible.bias
        elif mask is not None:
            scores = self.where(mask, scores, -1e30)
        attended = self.cast(self.softmax(scores), self.dtype(v)).reshape(batch, groups, heads // groups, queries, -1)
        return (attended @ v[:, :, None]).reshape(batch, heads, queries, -1)

    def token_nll(self, logits: Array, targets: Array) -> Array:
        """-log softmax(logits)[target] per token: (B, T, V), int (B, T) -> float32 (B, T), not reduced."""
        logits = self.cast(logits, "float32")
        return self.logsumexp(logits) - self.gather(logits, targets[..., None])[..., 0]

    def chunked_nll(self, hidden: Array, weight: Array, targets: Array, size: int) -> Array:
        """`token_nll` of the logits hidden (N, d) · weight (V, d)ᵀ for targets (N,), `size` tokens at a time: (N,).

        No more than `size` rows of logits exist at once, forwards and backwards; they are computed twice.
        """
        chunk = self.checkpoint(lambda w, x, t: self.token_nll(self.linear(x, w), t))
        starts = range(0, hidden.shape[0], size)
        return self.concat([chunk(weight, hidden[i : i + size], targets[i : i + size]) for i in starts], axis=0)

    # ---- differentiation ---------------------------------------------------------------------------------

    @abstractmethod
    def value_and_grad(self, fn: Callable, compiled: bool = False) -> Callable:
        """For `fn(weights, *args) -> (scalar, aux)` the function that returns `((scalar, aux), gradients)`.

        The gradients are a tree like `weights`; leaves that `fn` does not use, and integer leaves, get zeros.
        With `compiled` the backend may trace `fn`: it must then depend on its arguments only (arrays that it
        closes over are baked in as constants) and be called with few different shapes.
        """

    @abstractmethod
    def stop_gradient(self, x: Array) -> Array: ...

    @abstractmethod
    def checkpoint(self, fn: Callable) -> Callable:
        """`fn` whose inner activations are recomputed in the backward pass instead of stored.

        Every array that needs a gradient must be an argument: MLX gives closed-over arrays a zero gradient.
        """

    def inference(self) -> AbstractContextManager:
        """Within it nothing is kept for a gradient; arrays that are born in it must not be trained with."""
        return nullcontext()

    # ---- running -----------------------------------------------------------------------------------------

    def compile(self, fn: Callable) -> Callable:
        """A traced `fn` where that pays on this device, else `fn`. Same rules as `value_and_grad(compiled=True)`."""
        return fn

    def sync(self, *trees: Any) -> None:  # noqa: B027 - nothing to do where an operation computes at once
        """Compute the arrays of `trees` now and wait for them, so that what follows is timed or freed honestly."""

    def async_eval(self, *trees: Any) -> None:  # noqa: B027 - as above
        """Have the arrays of `trees` computed while the program goes on; never waits."""

    def side_by_side(self, fn: Callable, pieces: Sequence[Any]) -> list[Any]:
        """[fn(piece) for piece in pieces]; `lanes` of them are computed at the same time, where one leaves cores idle.

        What `fn` returns is lazy or computed, as any result.
        """
        return [fn(piece) for piece in pieces]

    # ---- groups with a file of their own -----------------------------------------------------------------

    @property
    def updates(self) -> Updates:
        """The optimizers' arithmetic."""
        return Updates(self)

    @property
    def quantized(self) -> Quantized:
        """Matrices in few bits."""
        return Quantized(self)

    @property
    def runtime(self) -> Runtime:
        """Memory, limits and versions."""
        return Runtime(self)

    def grouped(self, launched: Launched) -> Group:
        """The group of the processes that this one was launched with. Waits until all are there; raises RuntimeError
        when they cannot be reached.
        """
        raise BackendUnavailable(f"The {self.name} backend computes in one process only.")


def causal_mask(backend: Backend, queries: int, keys: int) -> Array:
    """(Tq, Tk) bool, True where key j is not after query i when the last query aligns with the last key."""
    return backend.arange(0, keys)[None, :] <= backend.arange(keys - queries, keys)[:, None]


def token_positions(backend: Backend, positions: Array, tokens: int) -> Array:
    """(B, T) int32: each token's position, from those of the rows' first tokens (B,); (B, T) is returned as it is."""
    return positions if len(positions.shape) == 2 else positions[:, None] + backend.arange(0, tokens)[None, :]


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
    frequencies = theta if isinstance(theta, tuple) else theta ** (-np.arange(half) / half)
    return np.asarray(frequencies, np.float32)
