"""The feed-forward layer: SwiGLU, or GPT-2's."""

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.model.linear import linear, linears, matrix_shapes, matrix_start
from minigpt.sections import ModelConfig


class FeedForward:
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x)); or down(gelu(up(x)))."""

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend = config, backend

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves."""
        wide, narrow = (config.d_ff, config.d_model), (config.d_model, config.d_ff)
        gate = matrix_shapes("gate_proj", wide, config.mlp_bias) if config.feed_forward == "swiglu" else {}
        up, down = (matrix_shapes(*layer, config.mlp_bias) for layer in (("up_proj", wide), ("down_proj", narrow)))
        return gate | up | down

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf: the output's matrix divided by √(2·layers) (Radford et al. 2019)."""
        deviation = 0.02 / (2 * config.n_layer) ** 0.5 if leaf.startswith("down_proj") else 0.02
        return matrix_start(stream, leaf, shape, deviation)

    @staticmethod
    def flops_per_token(config: ModelConfig, width: int) -> float:
        """Arithmetic of one token, forwards and backwards: 6 for each entry of a matrix."""
        return 6.0 * (3 if config.feed_forward == "swiglu" else 2) * config.d_model * config.d_ff

    @staticmethod
    def kept_values(config: ModelConfig, habits, width: int, masked: bool) -> float:
        """Values per token that the backward pass needs: `habits.gated` arrays of width d_ff, two fewer for GELU."""
        return (habits.gated if config.feed_forward == "swiglu" else habits.gated - 2) * config.d_ff

    def __call__(self, w: Tree, x: Array) -> Array:
        """x (B, T, d) -> (B, T, d)."""
        backend = self.backend
        if self.config.feed_forward != "swiglu":
            hidden = linear(backend, w["up_proj"], x)  # (B, T, d_ff)
            return linear(backend, w["down_proj"], backend.gelu(hidden, self.config.feed_forward == "gelu_tanh"))
        gate, up = linears(backend, [w["gate_proj"], w["up_proj"]], x)  # (B, T, d_ff) each
        return linear(backend, w["down_proj"], backend.silu(gate) * up)
