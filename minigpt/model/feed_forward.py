"""The feed-forward layer: with a gate (SwiGLU and its kin) or without (GPT-2's GELU and its kin)."""

from collections.abc import Callable

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.model.linear import linear, linears, matrix_shapes, matrix_start
from minigpt.sections import ModelConfig

# What stands for f in the forms with a gate.
GATES = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "reglu": "relu"}


class FeedForward:
    """down(f(gate(x)) * up(x)) (GLU variants, Shazeer 2020), or down(f(up(x)))."""

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend = config, backend

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves."""
        wide, narrow = (config.d_ff, config.d_model), (config.d_model, config.d_ff)
        gate = matrix_shapes("gate_proj", wide, config.mlp_bias) if config.feed_forward in GATES else {}
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
        return 6.0 * (3 if config.feed_forward in GATES else 2) * config.d_model * config.d_ff

    @staticmethod
    def kept_values(config: ModelConfig, habits, width: int, masked: bool) -> float:
        """Values per token that backwards needs: `habits.gated` arrays of width d_ff, 2 fewer without a gate."""
        return (habits.gated if config.feed_forward in GATES else habits.gated - 2) * config.d_ff

    def __call__(self, w: Tree, x: Array) -> Array:
        """x (…, d) -> (…, d)."""
        backend, kind = self.backend, self.config.feed_forward
        if kind not in GATES:
            return linear(backend, w["down_proj"], activated(backend, kind, linear(backend, w["up_proj"], x)))
        gate, up = linears(backend, [w["gate_proj"], w["up_proj"]], x)  # (…, d_ff) each
        return linear(backend, w["down_proj"], activated(backend, GATES[kind], gate) * up)

    def through(self, product: Callable[[str, Array], Array]) -> Callable[[Array], Array]:
        """The same layer with `product(name, x)` for its matrices."""
        backend, kind = self.backend, self.config.feed_forward

        def forward(x: Array) -> Array:
            inner = activated(backend, GATES.get(kind, kind), product("gate_proj" if kind in GATES else "up_proj", x))
            return product("down_proj", inner * product("up_proj", x) if kind in GATES else inner)

        return forward


def activated(backend: Backend, kind: str, x: Array) -> Array:
    """f(x) for one of the activations; relu2 is relu(x)² (So et al. 2021)."""
    if kind in ("gelu", "gelu_tanh"):
        return backend.gelu(x, kind == "gelu_tanh")
    if kind == "silu":
        return backend.silu(x)
    positive = backend.relu(x)
    return positive * positive if kind == "relu2" else positive
