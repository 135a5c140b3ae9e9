"""Attention with grouped heads, rotary positions or ALiBi, QK-norm, a sliding window and a cache."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from backends.base import Array, Backend, Visible
from backends.tree import Tree
from minigpt.model.before import Before
from minigpt.model.linear import linear, linears, matrix_shapes, matrix_start
from minigpt.model.rope import rope_amplitude, rope_base, rope_frequencies
from minigpt.sections import ModelConfig


@dataclass(frozen=True)
class Queries:
    """Where the queries of a pass stand, and what they see."""

    positions: int | Array  # of the first token of all rows, or of each row (B,), or of all tokens (B, T)
    visible: Visible
    everywhere: Visible  # the same in layers without the sliding window
    chosen: Callable[[Array], Array] | None = None  # (B, T, d) -> (B, some, d): the tokens that ask; None: all
    segments: Array | None = None  # (B, T): the example of each token, where several share a row


class Cache(Protocol):
    """What attention needs of a cache (see `minigpt.generate.cache`)."""

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Keep k, v (B, K, T, D) of a layer; returns all that are kept (B, K, Tk, D)."""

    def remember(self, layer: int, x: Array) -> Array:
        """Keep what a layer's attention reads (B, T, d); returns all that is kept (B, N, d)."""


class Attention:
    """softmax(q kᵀ · scale) v over heads that share keys and values in groups (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend = config, backend
        frequencies = rope_frequencies(config)
        self.theta = rope_base(config) if frequencies is None else tuple(frequencies.tolist())
        self.scale = (config.attention_scale or config.head_dim**-0.5) * rope_amplitude(config) ** 2
        self.before = Before(config, backend)

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves."""
        q, k = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        shapes = matrix_shapes("q_proj", (q, config.d_model), config.qkv_bias)
        shapes |= matrix_shapes("k_proj", (k, config.d_model), config.qkv_bias)
        shapes |= matrix_shapes("v_proj", (k, config.d_model), config.qkv_bias)
        shapes |= matrix_shapes("o_proj", (config.d_model, q), config.output_bias)
        if config.qk_norm:
            whole = config.qk_norm_whole
            shapes |= {"q_norm.weight": (q if whole else config.head_dim,)}
            shapes |= {"k_norm.weight": (k if whole else config.head_dim,)}
        if config.value_projection:
            shapes["embedding_proj.weight"] = (k, config.d_model)
        if config.value_embeddings or config.value_projection:
            shapes["value_mix.weight"] = (config.n_kv_head,)
        if config.head_gate:
            shapes["head_gate.weight"] = (config.n_head, config.d_model)
        return shapes | Before.shapes(config)

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf: the output's matrix divided by √(2·layers) (Radford et al. 2019)."""
        if leaf in ("q_norm.weight", "k_norm.weight"):
            return np.ones(shape, np.float32)
        if leaf in ("value_mix.weight", "convolution.weight", "head_gate.weight"):
            return np.zeros(shape, np.float32)  # training begins without them
        deviation = 0.02 / (2 * config.n_layer) ** 0.5 if leaf.startswith("o_proj") else 0.02
        return matrix_start(stream, leaf, shape, deviation)

    @staticmethod
    def flops_per_token(config: ModelConfig, width: int) -> float:
        """Arithmetic of one token, forwards and backwards, in rows of `width`: 6 N + 12 q T (Chowdhery et al. 2022)."""
        q, k = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        products = 2 * q + 2 * k + k * config.value_projection + config.n_head * config.head_gate
        return 6.0 * config.d_model * products + 12.0 * q * width

    @staticmethod
    def kept_values(config: ModelConfig, habits: Any, width: int, masked: bool) -> float:
        """Values per token that the backward pass needs: q, k, v, the attended values twice, and the scores of the
        rows, of `width` tokens, where they are kept. `masked` says that rows hold several examples.
        """
        q, k = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        seen = (width + habits.strip) / 2 if habits.strip and not masked else width  # keys of a query, on average
        values = 3 * q + 2 * k + habits.head_norm * (q + k) * config.qk_norm
        values += k * config.value_projection + (q + config.n_head) * config.head_gate
        if habits.exact and (masked or width <= habits.exact):
            values += 2 * q + 2 * k  # q, k, v and the attended values once are twice as wide
        return values + seen * habits.scores * config.n_head + width * habits.masked * masked + config.n_head

    def __call__(
        self, w: Tree, x: Array, queries: Queries, positions: int | Array, cache: Cache | None, layer: int,
        embedded: Array | None = None,
    ) -> Array:  # fmt: skip
        """x (B, T, d) -> (B, T, d), or (B, some, d) for chosen queries; `positions` are those of all tokens, `embedded`
        what the values get of the tokens themselves (B, T, K · D), or what is projected to that (B, T, d).
        """
        c, backend = self.config, self.backend
        batch, tokens, _ = x.shape
        x = self.before(w, x, queries.segments, cache, layer)
        if queries.chosen is not None:
            q = linear(backend, w["q_proj"], queries.chosen(x))
            k, v = linears(backend, [w["k_proj"], w["v_proj"]], x)
        else:
            q, k, v = linears(backend, [w["q_proj"], w["k_proj"], w["v_proj"]], x)
        asking = q.shape[1]
        if c.qk_norm_whole:
            q, k = self._normed(w, q, k)
        q = q.reshape(batch, asking, c.n_head, c.head_dim)
        k = k.reshape(batch, tokens, c.n_kv_head, c.head_dim)
        v = v.reshape(batch, tokens, c.n_kv_head, c.head_dim)
        if embedded is not None:
            embedded = linear(backend, w["embedding_proj"], embedded) if c.value_projection else embedded
            mix = backend.cast(w["value_mix"]["weight"], backend.dtype(v))[:, None]  # (K, 1)
            v = v + mix * embedded.reshape(batch, tokens, c.n_kv_head, c.head_dim)
        if c.qk_norm and not c.qk_norm_whole:
            q, k = self._normed(w, q, k)
        q, k, v = q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)  # (B, H, T, D), (B, K, T, D) twice
        if c.positions == "rope":
            q, k = self._rotated(q, queries.positions), self._rotated(k, positions)
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, K, Tk, D)
        visible = queries.everywhere if sees_all(c, layer) else queries.visible
        y = backend.attention(q, k, v, self.scale, visible, c.attention_softcap).swapaxes(1, 2)  # (B, T, H, D)
        if c.head_gate:  # begins as 1 (Qiu et al. 2025, head by head)
            seen = x if queries.chosen is None else queries.chosen(x)
            gate = 2.0 * backend.exp(backend.log_sigmoid(linear(backend, w["head_gate"], seen)))  # (B, T, H)
            y = y * gate[..., None]
        return linear(backend, w["o_proj"], y.reshape(batch, asking, c.n_head * c.head_dim))

    def _normed(self, w: Tree, q: Array, k: Array) -> tuple[Array, Array]:
        norm, eps = self.backend.rms_norm, self.config.norm_eps
        return norm(q, w["q_norm"]["weight"], eps), norm(k, w["k_norm"]["weight"], eps)

    def _rotated(self, x: Array, positions: int | Array) -> Array:
        """x (B, H, T, D) with its first coordinates turned by the positions, all of them if `rope_fraction` is 1."""
        turned = self.config.rotated
        if turned == x.shape[-1]:
            return self.backend.rope(x, positions, self.theta)
        return self.backend.concat([self.backend.rope(x[..., :turned], positions, self.theta), x[..., turned:]], -1)


def sees_all(config: ModelConfig, layer: int) -> bool:
    """Whether a layer's tokens see all tokens before them, not those of the sliding window only."""
    every = config.full_attention_every
    return every > 0 and (config.block_of(layer) + 1) % every == 0
