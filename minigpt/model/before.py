"""What attention reads of the tokens before: a shift of channels, or a short convolution.

Inside one layer a value then knows its neighbours, which is what a small model needs to bind a name to a thing.
"""

from typing import Any

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.sections import ModelConfig


class Before:
    """x_t and its predecessors -> x'_t, channel by channel. Without either option x' is x."""

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend = config, backend
        self.count = reaches_back(config)

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves: a depthwise convolution as Hugging Face stores it."""
        return {"convolution.weight": (config.d_model, 1, config.convolution)} if config.convolution else {}

    def __call__(self, w: Tree, x: Array, segments: Array | None, cache: Any, layer: int) -> Array:
        """x (B, T, d) -> (B, T, d). A text's first tokens have zeros before them."""
        if not self.count:
            return x
        earlier = self._earlier(x, segments, cache, layer)
        if self.config.convolution:  # x_t + Σ_j w_j ⊙ x_{t-j} (Allen-Zhu 2025, "Canon" layers)
            taps = self.backend.cast(w["convolution"]["weight"], self.backend.dtype(x))  # (d, 1, n)
            return x + sum(taps[:, 0, j] * one for j, one in enumerate(earlier))
        width = x.shape[-1] // 2 // self.count  # half of the channels are other tokens', each of them has as many
        own = x.shape[-1] // 2
        parts = [one[..., own + j * width : own + (j + 1) * width] for j, one in enumerate(earlier)]
        return self.backend.concat([x[..., :own], *parts], axis=-1)

    def _earlier(self, x: Array, segments: Array | None, cache: Any, layer: int) -> list[Array]:
        """x_{t-1}, x_{t-2}, …, each (B, T, d); 0 where the text or the example had not begun."""
        backend, n, (rows, tokens, width) = self.backend, self.count, x.shape
        begin = backend.zeros((rows, n, width), backend.dtype(x))
        start = 0 if cache is None else cache.start
        known = x if cache is None else cache.remember(layer, x)  # (B, N, d)
        padded = backend.concat([begin, known], axis=1)  # (B, n + N, d)
        if isinstance(start, int):
            found = [padded[:, start + n - j : start + n - j + tokens] for j in range(1, n + 1)]
        else:
            first = backend.arange(0, rows) * padded.shape[1] + start + n  # (B,): where each row's new tokens begin
            places = first[:, None] + backend.arange(0, tokens)[None, :]  # (B, T)
            found = [backend.take(padded.reshape(-1, width), places - j) for j in range(1, n + 1)]
        return found if segments is None else self._within(found, segments)

    def _within(self, found: list[Array], segments: Array) -> list[Array]:
        """The same with 0 for tokens of another example."""
        backend, tokens = self.backend, segments.shape[1]
        none = backend.zeros((segments.shape[0], self.count), "int32") - 2  # no example's number
        padded = backend.concat([none, segments], axis=1)
        shifted = [padded[:, self.count - j : self.count - j + tokens] for j in range(1, self.count + 1)]
        return [backend.where((s == segments)[..., None], x, 0.0) for s, x in zip(shifted, found, strict=True)]


def reaches_back(config: ModelConfig) -> int:
    """How many tokens before a token attention's input reads of: what a cache must keep."""
    return config.token_shift or config.convolution
