"""Weights in few bits: what is packed comes out again, and no number is further off than its group's steps allow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.tree import items, names
from minigpt.errors import UsageError
from minigpt.model.gpt import init_weights
from minigpt.quantize.codes import (
    decode,
    dequantize_matrix,
    encode,
    is_quantized,
    pack,
    quantize_matrix,
    quantize_weights,
    size_in_bytes,
    steps,
    unpack,
)
from minigpt.sections import ModelConfig

CONFIG = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, d_model=64, d_ff=96, vocab_size=90, qk_norm=True)
WEIGHTS = init_weights(CONFIG, 1)
BITS = pytest.mark.parametrize("bits", [4, 8])


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([4, 8]), st.integers(0, 2**32))
def test_what_is_packed_comes_out(rows, words, bits, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, words * 32 // bits)).astype(np.uint32)
    packed = pack(codes, bits)
    assert packed.dtype == np.uint32 and packed.shape == (rows, words)
    assert np.array_equal(unpack(packed, bits), codes)


@BITS
def test_the_first_code_has_the_lowest_bits(bits):
    codes = np.arange(32 // bits, dtype=np.uint32)[None]  # 0 1 2 …
    assert pack(codes, bits)[0, 0] == sum(int(code) << (bits * place) for place, code in enumerate(codes[0]))


@settings(max_examples=200)
@given(
    st.sampled_from([4, 8]), st.sampled_from([32, 64]), st.integers(0, 2**32), st.floats(1e-3, 1e3), st.floats(-3, 3)
)
def test_no_number_is_further_off_than_its_group_allows(bits, size, seed, scale, shift):
    """Half a step inside the codes' range, a step outside; and scale and edge are rounded to float16."""
    weight = (scale * (np.random.default_rng(seed).standard_normal((3, 2 * size)) + shift)).astype(np.float32)
    leaves = quantize_matrix(weight, bits, size)
    off = np.abs(dequantize_matrix(leaves, 2 * size) - weight).reshape(3, 2, size)
    step = np.abs(leaves["scales"].astype(np.float32))[..., None]
    edge = np.abs(weight).reshape(3, 2, size).max(axis=-1, keepdims=True)
    assert (off <= 1.02 * step + 2**-10 * edge + 2 ** (bits - 25)).all()
    assert np.median(off / step) < 0.4  # rounded, where cutting gives 0.5


@BITS
def test_each_code_is_the_nearest(bits):
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    scales, biases = steps(weight.reshape(4, 1, 64), bits)
    values = scales.astype(np.float32) * np.arange(2**bits, dtype=np.float32) + biases.astype(np.float32)  # (4, 2^bits)
    nearest = np.abs(weight[:, :, None] - values[:, None, :]).argmin(axis=-1)
    assert np.array_equal(encode(weight, scales, biases, bits), nearest)
    assert np.array_equal(decode(nearest, scales, biases), np.take_along_axis(values, nearest, axis=-1))


@BITS
@pytest.mark.parametrize("value", [0.0, 1.0, -0.25, 1e-9, 60000.0])
def test_groups_of_equal_numbers(bits, value):
    weight = np.full((2, 64), value, np.float32)
    found = dequantize_matrix(quantize_matrix(weight, bits, 32), 64)
    assert np.abs(found - weight).max() <= max(2**-11 * value, 6e-8)


@BITS
def test_zero_stays_zero_among_both_signs(bits):
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    weight[:, ::5] = 0
    found = dequantize_matrix(quantize_matrix(weight, bits, 32), 64)
    assert np.abs(found[:, ::5]).max() < 2**-9 * np.abs(weight).max()


def test_eight_bits_are_closer_than_four_and_small_groups_than_large_ones():
    weight = np.random.default_rng(0).standard_normal((32, 128)).astype(np.float32)
    off = [
        np.square(dequantize_matrix(quantize_matrix(weight, bits, size), 128) - weight).mean()
        for bits, size in ((4, 64), (4, 32), (8, 64), (8, 32))
    ]
    assert off == sorted(off, reverse=True)
    assert 200 < off[0] / off[2] < 400  # a step is 17 times smaller


def test_a_tree_keeps_its_names_and_its_vectors():
    found = quantize_weights(WEIGHTS, 4)
    assert is_quantized(found) and not is_quantized(WEIGHTS)
    for name, leaf in items(WEIGHTS):
        stem = name.removesuffix(".weight")
        parts = {key: part for key, part in items(found) if key.startswith(f"{stem}.")}
        if leaf.ndim == 1:
            assert parts[name] is leaf
        else:
            assert list(parts) == [f"{stem}.{part}" for part in ("packed", "scales", "biases")]
    embeddings = WEIGHTS["model"]["embed_tokens"]["weight"].size
    matrices = sum(leaf.size for _, leaf in items(WEIGHTS) if leaf.ndim == 2)
    vectors = sum(leaf.nbytes for _, leaf in items(WEIGHTS) if leaf.ndim == 1)
    # d_ff 96 takes groups of 32, and the embeddings take 8 bits
    assert size_in_bytes(found) == matrices * (4 + 2 * 16 / 32) / 8 + embeddings * 4 / 8 + vectors


def test_groups_that_do_not_divide_a_matrix_leave_it_in_floats():
    found = names(quantize_weights(WEIGHTS, 8, 64))  # down_proj has rows of 96
    assert "model.layers.0.mlp.down_proj.weight" in found and "model.layers.0.mlp.up_proj.packed" in found


def test_positions_are_no_matrix_to_multiply_with():
    tree = {"model": {"embed_positions": {"weight": np.ones((64, 64))}, "norm": {"weight": np.ones(64)},
                      "lm_head": {"weight": np.ones((9, 64))}}}  # fmt: skip
    found = names(quantize_weights(tree, 8))
    assert "model.embed_positions.weight" in found and "model.lm_head.packed" in found


@pytest.mark.parametrize(
    ("weights", "bits", "size", "words"),
    [
        (WEIGHTS, 3, 0, "3 bits"),
        (WEIGHTS, 16, 0, "--bits 4 or 8"),
        (WEIGHTS, 4, 48, "groups of 48"),
        (quantize_weights(WEIGHTS, 8), 4, 0, "quantized already"),
        ({"lm_head": {"weight": np.ones((4, 40), np.float32)}}, 4, 0, "rows have 40 numbers"),
        ({"lm_head": {"weight": np.ones((4, 96), np.float32)}}, 4, 64, "Groups of 64 divide no matrix"),
        ({"lm_head": {"weight": np.full((4, 64), np.nan, np.float32)}}, 4, 0, "not finite"),
        ({"lm_head": {"weight": np.full((4, 64), 7e4, np.float32)}}, 4, 0, "65,504"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantized_is_refused(weights, bits, size, words):
    with pytest.raises(UsageError, match=words) as refused:
        quantize_weights(weights, bits, size)
    assert refused.value.hint
