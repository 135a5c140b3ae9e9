"""Our model against transformers' and mlx-lm's own, on the same random weights under the same names."""

import functools
import json

import numpy as np
import pytest

from backends import tree
from minigpt.model.gpt import GPT, parameter_count, to_backend, weight_shapes
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig

# float32, logits of size up to about 4: the peers among themselves differ by 3e-6
BOUND = 1e-5
IDS = np.random.default_rng(0).integers(0, 97, (2, 14)).astype(np.int32)
SHAPE = {"n_layer": 2, "d_model": 48, "d_ff": 80, "vocab_size": 97, "context": 32, "rope_theta": 50000.0}
CONFIGS = {
    f"{kind}, {'tied' if tied else 'untied'}, {heads}/{groups} heads": ModelConfig(
        **SHAPE, n_head=heads, n_kv_head=groups, tie_embeddings=tied, qk_norm=kind == "qwen3", norm_eps=eps, head_dim=16
    )
    for kind, eps in (("llama", 1e-5), ("qwen3", 1e-6))
    for tied in (True, False)
    for heads, groups in ((4, 2), (3, 1))
}


def peer_config(config):
    """config.json as both peers read it: without the flat rope_theta mlx-lm is silently wrong."""
    return {
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": config.vocab_size, "hidden_size": config.d_model, "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layer, "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head, "head_dim": config.head_dim, "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta, "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings, "max_position_embeddings": config.context,
        "attention_bias": False, "mlp_bias": False, "hidden_act": "silu",
    }  # fmt: skip


@functools.cache
def transformers_model(name):
    import torch
    import transformers

    config = CONFIGS[name]
    kind = transformers.Qwen3ForCausalLM if config.qk_norm else transformers.LlamaForCausalLM
    settings = kind.config_class(**peer_config(config), attn_implementation="eager", dtype="float32")
    model = kind(settings).eval()
    weights = {key: torch.tensor(w) for key, w in tree.items(random_weights(config))}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert unexpected == [] and set(missing) <= {"lm_head.weight"} and bool(missing) == config.tie_embeddings
    model.tie_weights()
    return model


@functools.cache
def transformers_logits(name):
    import torch

    with torch.no_grad():
        return transformers_model(name)(torch.tensor(IDS.astype(np.int64))).logits.numpy()


@functools.cache
def mlx_lm_logits(name):
    from backends import get_backend

    get_backend("mlx", "cpu")  # before mlx_lm: it turns off compiling, which takes minutes on CPUs
    import mlx.core as mx
    from mlx_lm.models import llama, qwen3

    config = CONFIGS[name]
    kind = qwen3 if config.qk_norm else llama
    model = kind.Model(kind.ModelArgs.from_dict(json.loads(json.dumps(peer_config(config)))))
    model.load_weights([(key, mx.array(w)) for key, w in tree.items(random_weights(config))], strict=True)
    return np.array(model(mx.array(IDS)))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_the_peers(backend, name):
    config = CONFIGS[name]
    model, weights = GPT(config, backend), to_backend(backend, random_weights(config))
    logits = backend.numpy(model(weights, backend.array(IDS)))
    assert np.abs(logits).max() > 1  # something to compare
    assert np.abs(logits - transformers_logits(name)).max() < BOUND
    assert np.abs(logits - mlx_lm_logits(name)).max() < BOUND


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_those_of_the_hugging_face_checkpoint(name):
    config, model = CONFIGS[name], transformers_model(name)
    theirs = {key: tuple(w.shape) for key, w in model.state_dict().items()}
    if config.tie_embeddings:
        del theirs["lm_head.weight"]  # the same array as the embeddings: not stored
    assert weight_shapes(config) == theirs
    assert list(weight_shapes(config)) == tree.names(random_weights(config))
    assert parameter_count(config) == sum(w.numel() for w in model.parameters())


def test_a_small_difference_would_be_seen(backend):
    """The bound is tight enough: rotary positions that are off by one, or another eps, break it."""
    name = "llama, untied, 4/2 heads"
    config = CONFIGS[name]
    weights, ids = to_backend(backend, random_weights(config)), backend.array(IDS)
    for changed in ({"rope_theta": 50100.0}, {"norm_eps": 2e-5}):
        logits = backend.numpy(GPT(config.model_copy(update=changed), backend)(weights, ids))
        assert np.abs(logits - transformers_logits(name)).max() > BOUND, changed
