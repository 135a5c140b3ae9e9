"""Tokens into vectors, with learned positions where a model has them, and hidden states into logits."""

import numpy as np

from backends.base import Array, Backend, token_positions
from backends.tree import Tree
from minigpt.model.linear import embed, linear, matrix_start
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
        return shapes

    @staticmethod
    def head_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """The output matrix, unless it is that of the embeddings."""
        return {} if config.tie_embeddings else {"lm_head.weight": (config.vocab_size, config.d_model)}

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf: tokens have rows of about unit length. With 0.02 the preset tiny ended higher."""
        return matrix_start(stream, leaf, shape, config.d_model**-0.5 if leaf.startswith("embed_tokens") else 0.02)

    @staticmethod
    def flops_per_token(config: ModelConfig, width: int) -> float:
        """Arithmetic of one token, forwards and backwards: that of the output matrix, as a look-up costs nothing."""
        return 6.0 * config.vocab_size * config.d_model

    def __call__(self, body: Tree, ids: Array, positions: int | Array, segments: Array | None) -> Array:
        """Ids (B, T), or embeddings (B, T, d) that were made elsewhere -> (B, T, d) in the compute dtype."""
        backend = self.backend
        x = embed(backend, body["embed_tokens"], ids, self.config.d_model) if len(ids.shape) == 2 else ids
        x = backend.cast(x, self.dtype)
        if self.config.positions != "learned":
            return x
        rows = self._learned(positions, ids.shape[1], segments)  # (T,) or (B, T)
        return x + backend.cast(backend.take(body["embed_positions"]["weight"], rows), self.dtype)

    def logits(self, weights: Tree, hidden: Array) -> Array:
        """Hidden states (…, d) to logits (…, V)."""
        return linear(self.backend, self.head(weights), hidden)

    def head(self, weights: Tree) -> Tree:
        """The output layer's leaves."""
        return weights["model"]["embed_tokens"] if self.config.tie_embeddings else weights["lm_head"]

    def _learned(self, positions: int | Array, tokens: int, segments: Array | None) -> Array:
        """The rows of the table of positions. Those of examples that share a row count from its own first token."""
        backend = self.backend
        if segments is not None and isinstance(positions, int):
            same = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
            before = backend.arange(0, tokens)[None, :] <= backend.arange(0, tokens)[:, None]
            positions = backend.cast(backend.cast(same & before, "int32").sum(axis=-1), "int32") - 1  # (B, T)
        if isinstance(positions, int):
            return backend.arange(positions, positions + tokens)
        places = token_positions(backend, positions, tokens)
        last = (self.config.max_positions or self.config.context) - 1
        return backend.where(places > last, last, places)  # a row's unused end may be longer than any example
