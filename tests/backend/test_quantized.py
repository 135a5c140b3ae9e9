"""Models whose matrices are in few bits: the same logits and gradients as with the floats that the codes stand for."""

import numpy as np
import pytest

from backends import get_backend
from backends.mlx.operations import MLXBackend
from backends.tree import items, map_leaves, unflatten
from minigpt.errors import UsageError
from minigpt.machine.formats import int8_speed
from minigpt.model.gpt import GPT, to_backend
from minigpt.model.linear import QUANTIZED, linear, matrix
from minigpt.parity.models import make_batch, random_weights
from minigpt.quantize.codes import (
    dequantize_matrix,
    dequantize_weights,
    pack,
    quantize_matrix,
    quantize_weights,
    unpack,
)
from minigpt.runs import quantized as runs_quantized
from minigpt.runs.quantized import for_answers
from minigpt.sections import ModelConfig, StageConfig
from minigpt.train.losses import language_loss
from minigpt.train.optim import Optimizer

BOUND = 1e-5
SHAPE = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 64, "vocab_size": 61, "context": 32}
CONFIGS = {
    "tied": ModelConfig(**SHAPE, d_ff=128),
    "untied, QK-norm": ModelConfig(**SHAPE, d_ff=128, tie_embeddings=False, qk_norm=True),
    "some matrices in floats": ModelConfig(**SHAPE, d_ff=80),
}
IDS = np.random.default_rng(0).integers(0, 61, (2, 12)).astype(np.int32)
CASES = pytest.mark.parametrize("name", CONFIGS)
BITS = pytest.mark.parametrize("bits", [4, 8])


def logits(backend, config, weights, dtype="float32"):
    return backend.numpy(GPT(config, backend, dtype)(to_backend(backend, weights), backend.array(IDS)))


@CASES
@BITS
def test_logits_equal_those_of_the_floats_that_the_codes_stand_for(backend, name, bits):
    config = CONFIGS[name]
    quantized = quantize_weights(random_weights(config), bits, 64)
    found = logits(backend, config, quantized)
    assert np.abs(found).max() > 1
    assert np.abs(found - logits(backend, config, dequantize_weights(quantized, config))).max() < BOUND
    plain = logits(backend, config, random_weights(config))
    assert 1e-3 < np.abs(found - plain).max() < (3 if bits == 4 else 0.3)  # not the same model, but near it


@CASES
@BITS
def test_both_backends_agree(both, name, bits):
    config, weights = CONFIGS[name], quantize_weights(random_weights(CONFIGS[name]), bits, 64)
    a, b = (logits(backend, config, weights) for backend in both)
    assert np.abs(a - b).max() < BOUND


@BITS
def test_one_token_at_a_time(backend, bits):
    """MLX has another kernel for few rows."""
    leaves = quantize_matrix(random_weights(CONFIGS["tied"])["model"]["embed_tokens"]["weight"], bits, 64)
    w = {name: backend.array(leaf) for name, leaf in leaves.items()}
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    whole = backend.numpy(linear(backend, w, backend.array(x)))
    for i, row in enumerate(x):
        assert np.abs(backend.numpy(linear(backend, w, backend.array(row[None])))[0] - whole[i]).max() < BOUND
    assert np.abs(whole - x @ dequantize_matrix(leaves, 64).T).max() < BOUND


def test_a_wrong_packing_would_be_seen(backend):
    """The comparison can fail: with the codes of each word in the opposite order the logits are others."""
    config, weights = CONFIGS["tied"], quantize_weights(random_weights(CONFIGS["tied"]), 4, 64)
    right = logits(backend, config, dequantize_weights(weights, config))

    def backwards(name, leaf):
        return pack(unpack(leaf, 4).reshape(-1, 8)[:, ::-1].reshape(len(leaf), -1), 4) if "packed" in name else leaf

    wrong = unflatten({name: backwards(name, leaf) for name, leaf in items(weights)})
    assert np.abs(logits(backend, config, wrong) - right).max() > 0.1


@BITS
def test_mlx_reads_our_leaves_and_we_would_pack_as_it_does(bits):
    import mlx.core as mx

    weight = np.random.default_rng(0).standard_normal((24, 128)).astype(np.float32)
    leaves = quantize_matrix(weight, bits, 64)
    wide = [mx.array(leaves[name].astype(np.float32)) for name in ("scales", "biases")]
    theirs = np.array(mx.dequantize(mx.array(leaves["packed"]), *wide, group_size=64, bits=bits))
    assert np.array_equal(theirs, dequantize_matrix(leaves, 128))
    packed, *steps = mx.quantize(mx.array(weight), group_size=64, bits=bits)
    peer = np.array(mx.dequantize(packed, *steps, group_size=64, bits=bits))
    ours, others = (np.square(found - weight).mean() for found in (theirs, peer))
    assert ours < 1.01 * others  # float16 steps cost nothing


@BITS
def test_the_backends_own_quantize_packs_as_mlx_does(backend, bits):
    import mlx.core as mx

    weight = np.random.default_rng(0).standard_normal((2, 3, 128)).astype(np.float32)
    found = [backend.numpy(leaf) for leaf in backend.quantized.quantize(backend.array(weight), bits, 32)]
    expected = [np.array(leaf) for leaf in mx.quantize(mx.array(weight), group_size=32, bits=bits)]
    assert np.array_equal(found[0].view(np.uint32), expected[0])
    assert all(np.abs(a - b).max() < 1e-7 for a, b in zip(found[1:], expected[1:], strict=True))


# ---- under training ----------------------------------------------------------------------------------------


@BITS
def test_adapters_learn_on_quantized_weights_as_on_their_floats(backend, bits):
    """QLoRA (Dettmers et al. 2023): the gradient of every adapter, through all layers below it, is the same."""
    config = CONFIGS["untied, QK-norm"]
    frozen = quantize_weights(random_weights(config), bits, 64)
    found, expected = (
        _adapter_gradients(backend, config, weights) for weights in (frozen, dequantize_weights(frozen, config))
    )
    assert found.keys() == expected.keys() and len(found) == 2 * 2 * 7
    for name in found:
        assert np.abs(expected[name]).max() > 1e-6, name
        assert np.abs(found[name] - expected[name]).max() < 1e-5 * np.abs(expected[name]).max() + 1e-7, name


def _adapter_gradients(backend, config, weights):
    draw = np.random.default_rng(5)
    width = {"down_proj": config.d_ff}
    rows = {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64, "gate_proj": 128, "up_proj": 128, "down_proj": 64}
    adapters = [
        {part: {"lora_a": draw.normal(0, 0.1, (4, width.get(part, 64))).astype(np.float32),
                "lora_b": draw.normal(0, 0.1, (rows[part], 4)).astype(np.float32)} for part in rows}
        for _ in range(2)
    ]  # fmt: skip
    base, trained = to_backend(backend, weights), map_leaves(backend.array, adapters)
    batch = {key: backend.array(x) for key, x in make_batch(config).items()}
    scale = backend.array(np.float32(2.0))

    def loss(adapters, batch):
        layers = []
        for layer, own in zip(base["model"]["layers"], adapters, strict=True):
            merged = dict(layer)
            for block in ("self_attn", "mlp"):
                adapted = {k: w | own[k] | {"lora_scale": scale} for k, w in layer[block].items() if k in own}
                merged[block] = layer[block] | adapted
            layers.append(merged)
        tree = base | {"model": base["model"] | {"layers": layers}}
        return language_loss(GPT(config, backend), tree, batch), {}

    (_, _), grads = backend.value_and_grad(loss)(trained, batch)
    return {name: backend.numpy(g) for name, g in items(grads)}


def test_gradients_of_a_whole_tree_are_zero_for_its_codes(backend):
    config, batch = CONFIGS["tied"], make_batch(CONFIGS["tied"])
    weights = to_backend(backend, quantize_weights(random_weights(config), 4, 64))
    arrays = {key: backend.array(x) for key, x in batch.items()}
    model = GPT(config, backend)
    _, grads = backend.value_and_grad(lambda w, data: (language_loss(model, w, data), {}))(weights, arrays)
    for name, grad in items(grads):
        moved = np.abs(backend.numpy(grad)).max() > 0
        assert moved == (name.split(".")[-1] not in QUANTIZED), name


def test_the_matrix_of_a_layer(backend):
    weight = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    leaves = quantize_matrix(weight, 8, 32)
    found = matrix(backend, {name: backend.array(leaf) for name, leaf in leaves.items()}, 64)
    assert np.abs(backend.numpy(found) - dequantize_matrix(leaves, 64)).max() < 1e-6
    assert np.array_equal(backend.numpy(matrix(backend, {"weight": backend.array(weight)}, 64)), weight)


def test_losses_in_chunks_of_rows(backend):
    config, batch = CONFIGS["tied"], make_batch(CONFIGS["tied"])
    weights = to_backend(backend, quantize_weights(random_weights(config), 8, 64))
    arrays = {key: backend.array(x) for key, x in batch.items()}
    whole, parts = (float(language_loss(GPT(config, backend, loss_chunk=n), weights, arrays)) for n in (0, 5))
    assert abs(whole - parts) < 1e-5


def test_codes_are_not_trained(backend):
    weights = to_backend(backend, quantize_weights(random_weights(CONFIGS["tied"]), 8, 64))
    with pytest.raises(UsageError, match="cannot be trained.*lora_rank"):
        Optimizer(backend, StageConfig(), weights)


def test_torch_keeps_no_floats_of_a_frozen_weight_for_the_backward_pass():
    import torch

    torch_backend = get_backend("torch", "cpu")
    weight = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    w = {name: torch_backend.array(leaf) for name, leaf in quantize_matrix(weight, 4, 64).items()}
    x = torch.ones((2, 64), requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        linear(torch_backend, w, x).sum()
    assert 0 < sum(kept) < weight.nbytes / 5


@BITS
def test_mlx_kernels_that_gpus_use_for_all_rows(bits):
    """On GPUs mx.quantized_matmul takes every product, and its gradient; here the CPU device computes the same."""
    cpu = get_backend("mlx", "cpu")
    gpu = MLXBackend("gpu")
    assert gpu.quantized.fast and not cpu.quantized.fast
    config = CONFIGS["untied, QK-norm"]
    weights = quantize_weights(random_weights(config), bits, 64)
    assert np.abs(logits(gpu, config, weights) - logits(cpu, config, weights)).max() < BOUND
    found, expected = (_adapter_gradients(backend, config, weights) for backend in (gpu, cpu))
    for name in found:
        assert np.abs(found[name] - expected[name]).max() < 1e-5 * np.abs(expected[name]).max() + 1e-7, name


# ---- 8 bits with a scale per row, for answers on CPUs


def test_rows_in_8_bits_are_whole_numbers_times_their_scales(backend):
    """Exactly what NumPy computes with integers; rows of other sizes beside a row change nothing for it."""
    draw = np.random.default_rng(0)
    weight, bias = draw.standard_normal((48, 64)).astype(np.float32), draw.standard_normal(48).astype(np.float32)
    weight[3] = 0
    x = draw.standard_normal((2, 3, 64)).astype(np.float32) * np.array([[[1e-3], [1], [200]], [[0], [1], [1]]], "f4")
    int8 = backend.quantized.int8
    if int8 is None:
        pytest.skip("no product of bytes on this framework and processor")
    matrix = int8.matrix(weight)

    def rounded(rows):
        scales = np.maximum(np.abs(rows).max(axis=-1, keepdims=True), 1e-30).astype(np.float64) / 127
        return np.rint(rows / scales), scales

    (a, x_scales), (b, w_scales) = rounded(x), rounded(weight)
    found = backend.numpy(int8.linears(backend.array(x), [matrix], [backend.array(bias)])[0]) - bias
    size = np.abs(x).max(axis=-1, keepdims=True)  # with another code for a single number it would be 0.01 of that
    assert (np.abs(found - (a @ b.T) * x_scales * w_scales[:, 0]) <= 1e-5 * size + 1e-6).all()
    exact = x @ weight.T
    assert 1e-3 < np.abs(found - exact)[0, 1].max() < 0.5, np.abs(exact[0, 1]).max()
    several = [int8.matrix(weight[:8]), matrix]
    few, plain = map(backend.numpy, int8.linears(backend.array(x), several, [None, None]))
    assert np.array_equal(few, plain[..., :8]) and np.abs(plain - found).max() < 1e-4
    alone = backend.numpy(int8.linears(backend.array(x[:1, 1:2]), [matrix], [None])[0])
    assert np.array_equal(alone[0, 0], plain[0, 1])


@CASES
@BITS
@pytest.mark.parametrize("speed", [1.6, 0.7])
def test_weights_for_answers_give_nearly_the_same_logits(backend, name, bits, speed, monkeypatch):
    """In 8 bits where these were measured to be faster, else as the floats that the codes stand for."""
    config = CONFIGS[name]
    quantized = quantize_weights(random_weights(config), bits, 64)
    possible = backend.quantized.int8 is not None
    monkeypatch.setattr(runs_quantized, "int8_speed", lambda *measured: speed if possible else 0.0)
    arrays, how = for_answers(backend, quantized, config, bits)
    if not backend.quantized.fast:
        assert ("one scale per row" in how) == (possible and bits == 8 and speed > 1)
    found = backend.numpy(GPT(config, backend)(arrays, backend.array(IDS)))
    right = logits(backend, config, quantized)
    in_rows = any(leaf.endswith("int8") for leaf, _ in items(arrays))
    assert in_rows == ("one scale per row" in how) and not (in_rows and bits == 4)
    assert np.abs(found - right).max() < (0.3 if in_rows else BOUND), how
    assert np.abs(right).max() > 1


def test_without_fast_products_of_bytes_there_are_floats(monkeypatch):
    torch_backend = get_backend("torch", "cpu")
    monkeypatch.setattr(type(torch_backend.quantized), "int8", None)
    int8_speed.cache_clear()
    quantized = quantize_weights(random_weights(CONFIGS["tied"]), 8, 64)
    arrays, how = for_answers(torch_backend, quantized, CONFIGS["tied"], 8)
    assert "floats" in how and {name.split(".")[-1] for name, _ in items(arrays)} == {"weight"}
