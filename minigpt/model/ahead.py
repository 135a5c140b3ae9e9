"""Heads that predict tokens after the next one, while training only (Gloeckle et al. 2024; Cai et al. 2024)."""

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.model.linear import linear
from minigpt.model.norms import Norm
from minigpt.sections import ModelConfig


class Ahead:
    """h_k = norm_k(h + silu(W_k h)), whose logits are those of token t + 1 + k; W_k starts at 0."""

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend, self.norm = config, backend, Norm(config, backend)

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves below `model`."""
        found: dict[str, tuple[int, ...]] = {}
        for k in range(config.predict_ahead):
            found[f"ahead.{k}.proj.weight"] = (config.d_model, config.d_model)
            found |= {f"ahead.{k}.norm.{leaf}": shape for leaf, shape in Norm.shapes(config).items()}
        return found

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf."""
        return np.zeros(shape, np.float32) if ".proj." in leaf else Norm.start(config, leaf, shape, stream)

    @staticmethod
    def flops_per_token(config: ModelConfig, width: int) -> float:
        """Arithmetic of one token, forwards and backwards, with the logits of each head."""
        return 6.0 * config.predict_ahead * config.d_model * (config.d_model + config.vocab_size)

    def __call__(self, leaves: list[Tree], hidden: Array) -> list[Array]:
        """Hidden states (B, T, d) of the heads for the model's own (B, T, d), in the order of their distance."""
        backend = self.backend
        return [
            self.norm(w["norm"], hidden + backend.silu(linear(backend, w["proj"], hidden)))
            for w in leaves
        ]  # fmt: skip
