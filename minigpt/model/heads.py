"""What stands on top of the trunk: the output matrix of a language model, or one score per token.

Which of them a model has is said by the class of its configuration (`ModelConfig.head`), so that all that is made from
a shape (first weights, memory, adapters, exports) follows it. The leaves are those of `…ForCausalLM` and
`…ForSequenceClassification` with one label.
"""

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, unflatten
from minigpt.model.embeddings import Embeddings
from minigpt.model.linear import linear
from minigpt.sections import ModelConfig, ScoringModel


class VocabularyHead:
    """Logits over the tokens; the matrix may be that of the embeddings."""

    config = ModelConfig
    shapes = staticmethod(Embeddings.head_shapes)
    start = staticmethod(Embeddings.start)
    flops_per_token = staticmethod(Embeddings.flops_per_token)

    @staticmethod
    def outputs(config: ModelConfig) -> int:
        """Numbers that a token's hidden state becomes."""
        return config.vocab_size

    @staticmethod
    def whole(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Leaves that are trained whole beside an adapter of the blocks: none, as all were trained before."""
        return {}


class ScoreHead:
    """One number per token, of a reward or value model: no bias, as in Hugging Face's sequence classifiers."""

    config = ScoringModel
    leaf = "score.weight"

    @classmethod
    def shapes(cls, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        return {cls.leaf: (1, config.d_model)}

    whole = shapes  # a new head is trained whole (peft's modules_to_save)

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """A new head knows nothing: all scores are 0, so that a loss on pairs begins at log 2."""
        return np.zeros(shape, np.float32)

    @staticmethod
    def flops_per_token(config: ModelConfig, width: int) -> float:
        return 6.0 * config.d_model

    @staticmethod
    def outputs(config: ModelConfig) -> int:
        return 1


HEADS = {"vocabulary": VocabularyHead, "score": ScoreHead}
WRITES, JUDGES = HEADS
Head = type[VocabularyHead] | type[ScoreHead]


def head_of(config: ModelConfig) -> Head:
    """The head that a model of this shape has."""
    return HEADS[config.head]


def with_head(config: ModelConfig, head: str) -> ModelConfig:
    """The same trunk under the head of that name, a row of HEADS."""
    return config if config.head == head else HEADS[head].config.model_construct(**dict(config))


def headed(weights: Tree, config: ModelConfig) -> Tree:
    """NumPy weights for a model of this shape from a tree that may have another head: that is replaced by a new one.

    The trunk's leaves stand below `model`, a head's beside it.
    """
    shapes = head_of(config).shapes(config)
    own = {name.partition(".")[0] for name in shapes}
    if own == weights.keys() - {"model"}:
        return weights
    new = {name: head_of(config).start(config, name, shape, None) for name, shape in shapes.items()}
    return {"model": weights["model"]} | unflatten(new)


def scores(backend: Backend, weights: Tree, hidden: Array) -> Array:
    """Hidden states (…, d) to scores (…,) in float32."""
    return linear(backend, weights["score"], backend.cast(hidden, "float32"))[..., 0]
