"""GPTQ: nothing to make up for leaves plain rounding, correlated inputs lose less than with it."""

import numpy as np
import pytest

from backends.tree import items
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import make_batch, random_weights
from minigpt.quantize.codes import (
    decode,
    dequantize_matrix,
    dequantize_weights,
    encode,
    quantize_matrix,
    quantize_weights,
    steps,
)
from minigpt.quantize.gptq import error_report, gptq_matrix, gptq_weights, input_grams
from minigpt.sections import ModelConfig

CONFIG = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=2, d_model=64, d_ff=96, vocab_size=61, context=32, tie_embeddings=False
)
DRAW = np.random.default_rng(0)
WEIGHT = DRAW.standard_normal((24, 64)).astype(np.float32)
INPUTS = DRAW.standard_normal((400, 64)) @ DRAW.standard_normal((64, 64)) + 2 * DRAW.standard_normal((400, 1))
GRAM = INPUTS.T @ INPUTS
BITS = pytest.mark.parametrize("bits", [4, 8])


def output_error(leaves):
    return np.linalg.norm(INPUTS @ (dequantize_matrix(leaves, 64) - WEIGHT).T)


@BITS
def test_independent_inputs_get_plain_rounding(bits):
    found, plain = gptq_matrix(WEIGHT, np.diag(np.arange(1.0, 65)), bits, 32), quantize_matrix(WEIGHT, bits, 32)
    assert all(np.array_equal(found[name], plain[name]) for name in plain)


@BITS
def test_correlated_inputs_lose_less(bits):
    assert output_error(gptq_matrix(WEIGHT, GRAM, bits, 32)) < 0.8 * output_error(quantize_matrix(WEIGHT, bits, 32))


def test_errors_made_up_for_in_the_wrong_direction_lose_more():
    """The comparison can fail: for the inputs' mirror images every correction has the wrong sign."""
    signs = np.where(np.arange(64) % 2, 1.0, -1.0)
    mirrored = GRAM * signs[:, None] * signs[None, :]
    assert output_error(gptq_matrix(WEIGHT, mirrored, 4, 32)) > output_error(quantize_matrix(WEIGHT, 4, 32))


def test_each_column_is_rounded_to_what_its_errors_leave():
    """The last column against the closed form: the number that is best when all others are rounded already."""
    leaves = gptq_matrix(WEIGHT, GRAM, 4, 64)
    found = dequantize_matrix(leaves, 64).astype(np.float64)
    damped = GRAM + 0.01 * np.trace(GRAM) / 64 * np.eye(64)
    off = found[:, :-1] - WEIGHT[:, :-1]
    best = WEIGHT[:, -1] - off @ damped[:-1, -1] / damped[-1, -1]
    scales, biases = steps(WEIGHT.reshape(24, 1, 64), 4)
    codes = encode(best[:, None], scales, biases, 4)
    assert np.allclose(decode(codes, scales, biases)[:, 0], found[:, -1])


def test_inputs_that_never_occur_do_no_harm():
    gram = GRAM.copy()
    gram[:, :5] = gram[:5] = 0
    assert np.isfinite(dequantize_matrix(gptq_matrix(WEIGHT, gram, 4, 32), 64)).all()
    assert np.isfinite(dequantize_matrix(gptq_matrix(WEIGHT, np.zeros((64, 64)), 4, 32), 64)).all()


def batches():
    return [{key: x for key, x in make_batch(CONFIG).items() if key in ("ids", "segments")}]


def test_the_grams_are_those_of_the_layers_inputs(backend):
    model, weights = GPT(CONFIG, backend), random_weights(CONFIG)
    grams = input_grams(model, weights, batches())
    assert set(grams) == {name for name, w in items(weights) if w.ndim == 2 and "embed" not in name}
    ids = np.concatenate(batches()[0]["ids"])
    embedded = weights["model"]["embed_tokens"]["weight"][ids]
    normed = embedded / np.sqrt(np.square(embedded).mean(-1, keepdims=True) + CONFIG.norm_eps)
    first = normed * weights["model"]["layers"][0]["input_layernorm"]["weight"]
    for part in "qkv":
        found = grams[f"model.layers.0.self_attn.{part}_proj.weight"]
        assert np.allclose(found, first.T @ first, rtol=1e-4, atol=1e-4)
    part = input_grams(model, weights, batches(), "model.layers.1.")
    assert set(part) == {name for name in grams if ".layers.1." in name}
    assert all(np.allclose(part[name], grams[name], rtol=1e-5, atol=1e-5) for name in part)


def test_a_model_keeps_its_outputs_better(backend):
    model, weights = GPT(CONFIG, backend), random_weights(CONFIG)
    found, grams = gptq_weights(model, weights, batches(), 4)
    plain = quantize_weights(weights, 4)
    assert [(name, leaf.shape) for name, leaf in items(found)] == [(name, leaf.shape) for name, leaf in items(plain)]
    ids = backend.array(batches()[0]["ids"])

    def logits(tree):
        return backend.numpy(model(to_backend(backend, dequantize_weights(tree, CONFIG)), ids))

    right = logits(weights)
    off = [np.square(logits(tree) - right).mean() for tree in (found, plain)]
    assert off[0] < 0.7 * off[1]
    reports = [error_report(weights, tree, grams) for tree in (found, plain)]
    assert all(a["output_error"] < b["output_error"] for a, b in zip(*reports, strict=True) if a["output_error"])
    assert all(a["weight_error"] >= b["weight_error"] for a, b in zip(*reports, strict=True))


def test_the_report_says_what_was_left_in_floats(backend):
    weights = random_weights(CONFIG)
    rows = {row["name"]: row for row in error_report(weights, quantize_weights(weights, 8, 64), {})}
    assert len(rows) == 2 + 2 * 7
    assert rows["model.layers.0.mlp.down_proj.weight"]["bits"] == 32
    assert rows["model.layers.0.mlp.up_proj.weight"]["bits"] == 8
    assert 1e-3 < rows["lm_head.weight"]["weight_error"] < 1e-2
