"""Tokens into vectors, with positions where a model adds them there, and hidden states into logits."""

import numpy as np

from backends.base import Array, Backend, token_positions
from backends.tree import Tree
from minigpt.model.linear import embed, linear, matrix_start
from minigpt.model.positions import sinusoids
from minigpt.sections import ModelConfig


class Embeddings:
    """The first and the last layer: both may be the same matrix."""

    def __init__(self, config: ModelConfig, backend: Backend, dtype: str):
        self.config, self.backend, self.dtype = config, backend, dtype

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves below `model`; the output matrix is `head_shapes`."""
        shapes = {"embed_tokens.weight": (config.vocab_size, config.d_model)}
        if config.positions == "learned":
            shapes["embed_positions.weight"] = (config.max_positions or config.context, config.d_model)
        if config.value_embeddings:  # of all layers' values (Zhou et al. 2024; modded-nanogpt)
            shapes["embed_values.weight"] = (config.vocab_size, config.n_kv_head * config.head_dim)
        return shapes

    @staticmethod
    def head_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The output matrix, unless it is that of the embeddings."""
        weight = {} if config.tie_embeddings else {"lm_head.weight": (config.vocab_size, config.d_model)}
        return weight | ({"lm_head.bias": (config.vocab_size,)} if config.head_bias else {})

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf: tokens have rows of about unit length. With 0.02 the preset tiny ended higher."""
        long = leaf.startswith(("embed_tokens", "embed_values"))
        return matrix_start(stream, leaf, shape, config.d_model**-0.5 if long else 0.02)

    @staticmethod
    def flops_per_token(config: ModelConfig, width: int) -> float:
        """Arithmetic of one token, forwards and backwards: that of the output matrix, as a look-up costs nothing."""
        return 6.0 * config.vocab_size * config.d_model

    def __call__(self, body: Tree, ids: Array, positions: int | Array, segments: Array | None) -> Array:
        """Ids (B, T), or embeddings (B, T, d) that were made elsewhere -> (B, T, d) in the compute dtype."""
        backend = self.backend
        x = embed(backend, body["embed_tokens"], ids, self.config.d_model) if len(ids.shape) == 2 else ids
        x = backend.cast(x, self.dtype)
        if self.config.embedding_scale:
            x = x * self.config.d_model**0.5
        if self.config.positions not in ("learned", "sinusoidal"):
            return x
        rows = self._places(positions, ids.shape[1], segments)  # (T,) or (B, T)
        if self.config.positions == "sinusoidal":
            return x + backend.cast(sinusoids(backend, rows, self.config.d_model), self.dtype)
        return x + backend.cast(backend.take(body["embed_positions"]["weight"], rows), self.dtype)

    def values(self, body: Tree, ids: Array, x: Array) -> Array | None:
        """What all layers' values get of the tokens (B, T) themselves: (B, T, K · D), or their embeddings x (B, T, d)
        with a root mean square of 1, for each layer to project; None without these options.
        """
        c = self.config
        if c.value_projection:
            return self.backend.rms_norm(x, self.backend.zeros((c.d_model,)) + 1.0, c.norm_eps)
        if not c.value_embeddings:
            return None
        return self.backend.cast(embed(self.backend, body["embed_values"], ids, c.n_kv_head * c.head_dim), self.dtype)

    def logits(self, weights: Tree, hidden: Array) -> Array:
        """Hidden states (…, d) to logits (…, V)."""
        return self.capped(linear(self.backend, self.head(weights), hidden))

    def capped(self, logits: Array) -> Array:
        """Logits within ± `logit_softcap`: c · tanh(x / c) (Gemma Team 2024)."""
        cap = self.config.logit_softcap
        return cap * self.backend.tanh(logits * (1.0 / cap)) if cap else logits

    def head(self, weights: Tree) -> Tree:
        """The output layer's leaves."""
        own = weights.get("lm_head", {})
        return own if not self.config.tie_embeddings else weights["model"]["embed_tokens"] | own

    def _places(self, positions: int | Array, tokens: int, segments: Array | None) -> Array:
        """The tokens' positions. Those of examples that share a row count from its own first token."""
        backend = self.backend
        if segments is not None and isinstance(positions, int):
            same = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
            before = backend.arange(0, tokens)[None, :] <= backend.arange(0, tokens)[:, None]
            positions = backend.cast(backend.cast(same & before, "int32").sum(axis=-1), "int32") - 1  # (B, T)
        if isinstance(positions, int):
            return backend.arange(positions, positions + tokens)
        places = token_positions(backend, positions, tokens)
        if self.config.positions == "sinusoidal":
            return places
        last = (self.config.max_positions or self.config.context) - 1
        return backend.where(places > last, last, places)  # a row's unused end may be longer than any example
