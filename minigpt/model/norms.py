"""The norms of the residual stream, and of single heads."""

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.sections import ModelConfig

# Where norms stand -> names of those before attention, after it, before the feed-forward layer, after it. Behind a
# layer "post" normalizes its sum with the stream (Vaswani et al. 2017), "sandwich" its output (Ding et al. 2021).
PLACES = {
    "pre": ("input_layernorm", "", "post_attention_layernorm", ""),
    "post": ("", "post_attention_layernorm", "", "post_feedforward_layernorm"),
    "sandwich": (
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
    ),
    "parallel": ("input_layernorm", "", "", ""),
}  # fmt: skip


def norm_places(config: ModelConfig) -> tuple[str, str, str, str]:
    """The names of a block's norms: before and after attention, before and after the feed-forward layer; "": none."""
    return PLACES["parallel" if config.parallel else config.norm_placement]


class Norm:
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last axis."""

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend = config, backend

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves."""
        bias = {"bias": (config.d_model,)} if config.norm == "layer" else {}
        return {"weight": (config.d_model,)} | bias

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf: factors are 1, biases 0."""
        return np.zeros(shape, np.float32) if leaf.endswith("bias") else np.ones(shape, np.float32)

    @staticmethod
    def flops_per_token(config: ModelConfig, width: int) -> float:
        """Arithmetic of one token, forwards and backwards: not counted, as it is no product of matrices."""
        return 0.0

    @staticmethod
    def kept_values(config: ModelConfig, habits, width: int, masked: bool) -> float:
        """Values per token that the backward pass needs: `habits.norm` arrays of the stream's width."""
        return habits.norm * config.d_model

    def __call__(self, w: Tree, x: Array) -> Array:
        """x (…, d) -> (…, d)."""
        if self.config.norm == "layer":
            return self.backend.layer_norm(x, w["weight"], w["bias"], self.config.norm_eps)
        return self.backend.rms_norm(x, w["weight"], self.config.norm_eps)
