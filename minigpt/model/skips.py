"""Ways past the blocks between: those of the second half get what went into those of the first, in opposite order."""

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.sections import ModelConfig


class Skips:
    """x into block L - 1 - i becomes x + w_i ⊙ (x into block i), w_i per channel (Ronneberger et al. 2015; Bao et al.
    2023 for transformers); L blocks one after the other. Where L is odd the middle one gets nothing.
    """

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend = config, backend

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves below `model`."""
        return {f"skips.{i}.weight": (config.d_model,) for i in range(config.skips * (config.depth // 2))}

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf: training begins without it."""
        return np.zeros(shape, np.float32)

    def __call__(self, body: Tree, x: Array, entered: list[Array]) -> Array:
        """x (B, T, d) on its way into the next block, with what it gets; `entered` went into those before, and x is
        added to it.
        """
        other = self.config.depth - 1 - len(entered)  # the block at the same distance from the other end
        if not self.config.skips:
            return x
        if other < len(entered):
            x = x + self.backend.cast(body["skips"][other]["weight"], self.backend.dtype(x)) * entered[other]
        entered.append(x)
        return x
