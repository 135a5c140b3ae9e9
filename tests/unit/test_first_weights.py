"""The weights that a training starts from: by name, the same wherever and in whatever order they are made."""

import zlib

import numpy as np
import pytest

from backends.tree import items
from minigpt.model.gpt import init_weights
from minigpt.sections import ModelConfig

SHAPE = {"vocab_size": 60, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "d_model": 16, "d_ff": 24, "context": 8}
FOREIGN = {"norm": "layer", "positions": "learned", "feed_forward": "gelu", "mlp_bias": True, "qkv_bias": True,
           "output_bias": True}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_embeddings": False}, FOREIGN])
def test_each_leaf_is_drawn_from_the_stream_of_its_name(changes):
    for name, leaf in items(init_weights(ModelConfig(**SHAPE | changes), seed=5)):
        if name.endswith(".bias"):
            expected = np.zeros(leaf.shape)
        elif "norm" in name:
            expected = np.ones(leaf.shape)
        else:
            drawn = np.random.Generator(np.random.Philox(key=[5, zlib.crc32(name.encode())]))
            into_the_stream = 0.02 / 6**0.5 if ".o_proj." in name or ".down_proj." in name else 0.02  # 2 · 3 layers
            deviation = 0.25 if "embed_tokens" in name else into_the_stream  # 16^-0.5: rows of unit length
            expected = drawn.standard_normal(leaf.shape, np.float32) * np.float32(deviation)
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, expected, err_msg=name)
