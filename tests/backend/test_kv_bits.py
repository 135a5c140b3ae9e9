"""Keys and values in few bits: the answers of a float cache that holds the rounded numbers, and near the exact ones."""

import numpy as np
import pytest

from backends.tree import leaves
from minigpt.errors import UsageError
from minigpt.generate.cache import KVCache, QuantizedKVCache, new_cache
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.text.characters import CharTokenizer
from minigpt.text.tokenizer import FIRST_BYTE

CONFIG = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=2, d_model=64, d_ff=96, vocab_size=288, context=64, tie_embeddings=False
)
PROMPTS = [np.random.default_rng(size).integers(FIRST_BYTE, 288, size).tolist() for size in (5, 1, 17, 30)]
IDS = np.array([PROMPTS[3]], np.int32)  # (1, 30)
BITS = pytest.mark.parametrize("bits", [4, 8])


def step_by_step(backend, cache, config=CONFIG):
    """Logits (30, V) of a prompt of 20 tokens and ten more, one by one."""
    model, weights = GPT(config, backend), to_backend(backend, random_weights(config))
    pieces = [IDS[:, :20], *(IDS[:, i : i + 1] for i in range(20, 30))]
    return np.concatenate([backend.numpy(model(weights, backend.array(ids), cache=cache))[0] for ids in pieces])


class Rounding(KVCache):
    """A float cache that rounds what it is given."""

    def __init__(self, bits, size, *settings):
        super().__init__(*settings)
        self.bits, self.size = bits, size

    def extend(self, layer, k, v):
        def rounded(x):
            packed, scales, biases = self.backend.quantized.quantize(x, self.bits, self.size)
            half = [self.backend.cast(self.backend.cast(s, "float16"), "float32") for s in (scales, biases)]
            return self.backend.quantized.dequantize(packed, *half, self.bits)

        return super().extend(layer, rounded(k), rounded(v))


@BITS
@pytest.mark.parametrize("heads", [2, 4, 8])  # of width 32, 16, 8
def test_the_codes_stand_for_the_rounded_numbers(backend, bits, heads):
    config = CONFIG.model_copy(update={"n_head": heads, "head_dim": 64 // heads, "n_kv_head": 2})
    settings = backend, config, 1, 32, "float32"
    cache = QuantizedKVCache(*settings, bits)
    found = step_by_step(backend, cache, config)
    expected = step_by_step(backend, Rounding(bits, cache.group_size, *settings), config)
    assert np.abs(found - expected).max() < 1e-4
    exact = step_by_step(backend, KVCache(*settings), config)
    assert 1e-4 < np.abs(found - exact).max() < (2.5 if bits == 4 else 0.15), np.abs(found - exact).max()
    assert np.abs(exact).max() > 2


@BITS
def test_both_backends_agree(both, bits):
    a, b = (step_by_step(backend, new_cache(backend, CONFIG, 1, 32, "float32", bits)) for backend in both)
    # a number between two codes may go either way: then one key or value differs by a step
    assert np.abs(a - b).mean() < (2e-3 if bits == 4 else 2e-4)


@BITS
def test_it_takes_less_memory(backend, bits):
    def size(cache):
        return sum(backend.numpy(leaf).nbytes for leaf in leaves([cache.keys, cache.values]))

    plain, small = (size(new_cache(backend, CONFIG, 3, 40, "float32", n)) for n in (0, bits))
    assert small == plain * (bits + 2) / 32  # groups of 16: a float16 scale and bias each
    deep = CONFIG.model_copy(update={"head_dim": 64})
    plain, small = (size(new_cache(backend, deep, 3, 40, "float32", n)) for n in (0, bits))
    assert small == plain * (bits + 0.5) / 32


def engine(backend, kv_bits):
    weights = random_weights(CONFIG)
    weights["lm_head"]["weight"][:FIRST_BYTE] = 0
    return Engine(GPT(CONFIG, backend), to_backend(backend, weights), CharTokenizer(""), kv_bits)


def test_greedy_answers_in_8_bits_are_near_the_exact_ones(backend):
    """Random weights have many close calls; still most tokens are the same."""
    exact, found = (engine(backend, bits).answer(PROMPTS, GREEDY, 20) for bits in (0, 8))
    same = [np.mean(np.array(a.ids) == np.array(b.ids)) for a, b in zip(found, exact, strict=True)]
    assert np.mean(same) >= 0.7, same


@BITS
def test_in_a_batch_each_answer_is_what_it_is_alone(backend, bits):
    """Also of unequal prompts: every row has its own positions, so its keys are rounded as they are alone."""
    quantized = engine(backend, bits)
    prompts = [PROMPTS[3][:17], PROMPTS[0], PROMPTS[2], PROMPTS[3], PROMPTS[3][-17:]]
    together = quantized.answer(prompts, GREEDY, 8)
    assert [a.ids for a in together] == [quantized.answer([prompt], GREEDY, 8)[0].ids for prompt in prompts]


def test_codes_of_another_token_would_be_seen(backend):
    """The comparison can fail: with the scales of the token before, the logits are others."""

    class Late(QuantizedKVCache):
        def _extended(self, stored, layer, x):
            out = super()._extended(stored, layer, x)
            return self.backend.concat([out[:, :, :1], out[:, :, :-1]], 2)

    settings = backend, CONFIG, 1, 32, "float32", 8
    late, right = step_by_step(backend, Late(*settings)), step_by_step(backend, QuantizedKVCache(*settings))
    assert np.abs(late - right).max() > 0.5


def test_bits_that_there_are_not(backend):
    with pytest.raises(UsageError, match="3 bits.*--kv-bits 4 or 8"):
        engine(backend, 3)
    odd = CONFIG.model_copy(update={"n_head": 2, "n_kv_head": 1, "head_dim": 12})
    with pytest.raises(UsageError, match="head_dim"):
        Engine(GPT(odd, backend), {}, CharTokenizer(""), 4)
