"""Models of other architectures against transformers on the same weights; cached, padded and packed against alone."""

import functools

import numpy as np
import pytest

from backends import tree
from minigpt.errors import UsageError
from minigpt.exchange.hf.architectures import CLASSES, config_json, model_type_of
from minigpt.exchange.hf.families import FAMILIES
from minigpt.exchange.hf.foreign_config import model_config
from minigpt.exchange.hf.tensors import from_hugging_face, to_hugging_face
from minigpt.generate.cache import KVCache
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import GPT2, random_weights
from minigpt.sections import ModelConfig, RopeScaling
from minigpt.text.characters import CharTokenizer
from minigpt.text.chatml import render

BOUND = 2e-5  # float32, logits of size up to about 6
SHAPE = {
    "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48, "head_dim": 8, "vocab_size": 288,
    "context": 64, "max_positions": 64,
}  # fmt: skip
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_context=16)
VARIANTS = {
    "llama": ModelConfig(**SHAPE, tie_embeddings=False),
    "llama with biases": ModelConfig(**SHAPE, qkv_bias=True, output_bias=True, mlp_bias=True),
    "llama, linear rope": ModelConfig(**SHAPE, rope_scaling=RopeScaling(kind="linear", factor=4.0)),
    "llama, llama3 rope": ModelConfig(**SHAPE, rope_theta=100.0, rope_scaling=LLAMA3),
    "llama, yarn": ModelConfig(**SHAPE, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_context=16)),
    "llama, yarn's own factor": ModelConfig(
        **SHAPE, rope_scaling=RopeScaling(kind="yarn", factor=2.0, original_context=32, attention_factor=1.3)
    ),
    "qwen2": ModelConfig(**SHAPE, qkv_bias=True),
    "qwen3": ModelConfig(**SHAPE | {"head_dim": 16}, qk_norm=True, norm_eps=1e-6, rope_theta=1e6),
    "mistral, window 5": ModelConfig(**SHAPE, sliding_window=5, tie_embeddings=False),
    "gpt2": ModelConfig(**SHAPE | {"n_kv_head": 4}, **GPT2),
    "gpt2, exact gelu": ModelConfig(**SHAPE | {"n_kv_head": 4}, **GPT2 | {"feed_forward": "gelu"}),
}
IDS = np.random.default_rng(1).integers(32, 288, (2, 40)).astype(np.int32)  # eight times the window


@functools.cache
def theirs(name):
    import torch
    import transformers

    config = VARIANTS[name]
    content = config_json(config, "float32", [3, 1])
    settings = transformers.AutoConfig.for_model(**content, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    stored = to_hugging_face(model_type_of(config), dict(tree.items(random_weights(config))))
    if model_type_of(config) == "gpt2":
        stored = {key if key.startswith("lm_head") else f"transformer.{key}": w for key, w in stored.items()}
    missing, unexpected = model.load_state_dict({k: torch.tensor(w) for k, w in stored.items()}, strict=False)
    assert unexpected == [] and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def ours(backend, name):
    config = VARIANTS[name]
    return GPT(config, backend), to_backend(backend, random_weights(config))


def test_every_architecture_is_here():
    assert {model_type_of(config) for config in VARIANTS.values()} == CLASSES.keys() - FAMILIES  # see test_families


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_those_of_transformers(backend, name):
    import torch

    model, weights = ours(backend, name)
    found = backend.numpy(model(weights, backend.array(IDS)))
    with torch.no_grad():
        expected = theirs(name)(torch.tensor(IDS.astype(np.int64))).logits.numpy()
    assert np.abs(expected).max() > 1
    assert np.abs(found - expected).max() < BOUND


@pytest.mark.parametrize("change", ["sliding_window", "rope_scaling", "feed_forward"])
def test_a_lost_setting_would_be_seen(backend, change):
    """The comparison above can fail: without the window, the stretched rope or the right GELU it does."""
    import torch

    name, value = {
        "sliding_window": ("mistral, window 5", 6), "rope_scaling": ("llama, llama3 rope", RopeScaling()),
        "feed_forward": ("gpt2", "gelu"),
    }[change]  # fmt: skip
    weights = to_backend(backend, random_weights(VARIANTS[name]))
    wrong = GPT(VARIANTS[name].model_copy(update={change: value}), backend)
    with torch.no_grad():
        expected = theirs(name)(torch.tensor(IDS.astype(np.int64))).logits.numpy()
    assert np.abs(backend.numpy(wrong(weights, backend.array(IDS))) - expected).max() > BOUND


@pytest.mark.parametrize("name", VARIANTS)
def test_with_the_cache_as_without(backend, name):
    model, weights = ours(backend, name)
    whole = backend.numpy(model(weights, backend.array(IDS)))
    cache = KVCache(backend, model.config, 2, 40, "float32")
    parts, start = [], 0
    for size in (7, 1, 1, 11, 1, 19):
        parts.append(backend.numpy(model(weights, backend.array(IDS[:, start : start + size]), cache=cache)))
        start += size
    assert np.abs(np.concatenate(parts, axis=1) - whole).max() < BOUND


@pytest.mark.parametrize("name", VARIANTS)
def test_the_last_tokens_alone_are_those_of_the_whole(backend, name):
    """Also after a cache: what the other tokens leave in the cache stays the same."""
    model, weights = ours(backend, name)
    caches = [KVCache(backend, model.config, 2, 12, "float32") for _ in range(2)]
    for start, stop, last in ((0, 7, 1), (7, 12, 3)):
        ids = backend.array(IDS[:, start:stop])
        whole, part = (
            model.hidden(weights, ids, cache=c, last=n) for c, n in zip(caches, (0, last), strict=True)
        )
        assert part.shape == (2, last, model.config.d_model)
        assert np.abs(backend.numpy(part) - backend.numpy(whole)[:, -last:]).max() < BOUND


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_unequal_length_are_each_what_they_are_alone(backend, name):
    """Read together, filled up at their ends, and continued by two and by one token: each row as if it were alone."""
    model, weights = ours(backend, name)
    lengths, pieces = [3, 9, 6], (2, 1)
    texts = [IDS[i % 2, 5 * i : 5 * i + n + sum(pieces)] for i, n in enumerate(lengths)]
    cache = KVCache(backend, model.config, 3, 12, "float32")
    filled = np.stack([np.concatenate([text[:n], np.full(9 - n, 40)]) for text, n in zip(texts, lengths, strict=True)])
    found = [backend.numpy(model(weights, backend.array(filled), cache=cache, lengths=lengths, last=2))]
    ends = np.array(lengths)
    assert cache.length.tolist() == lengths
    for piece in pieces:
        ids = np.stack([text[end : end + piece] for text, end in zip(texts, ends, strict=True)])
        found.append(backend.numpy(model(weights, backend.array(ids), cache=cache)))
        ends += piece
    for row, text in enumerate(texts):
        alone = backend.numpy(model(weights, backend.array(text[None])))[0, lengths[row] - 2 :]
        assert np.abs(np.concatenate([part[row] for part in found]) - alone).max() < BOUND


def test_embeddings_may_stand_in_place_of_ids_and_positions_may_be_given(backend):
    """An image's patches are no tokens. Rotary positions count by their distances, which the caller may change."""
    model, weights = ours(backend, "llama")
    ids = backend.array(IDS)
    table = backend.numpy(weights["model"]["embed_tokens"]["weight"])
    whole = backend.numpy(model(weights, ids))
    assert np.abs(backend.numpy(model(weights, backend.array(table[IDS]))) - whole).max() < BOUND
    for positions in ([11, 0], np.array([[11], [0]]) + np.arange(40)):
        moved = backend.numpy(model(weights, ids, positions=backend.array(np.array(positions))))
        assert np.abs(moved - whole).max() < 10 * BOUND
    spread = backend.array(np.stack([2 * np.arange(40), np.arange(40)]))
    apart = np.abs(backend.numpy(model(weights, ids, positions=spread)) - whole).max(axis=(1, 2))
    assert apart[0] > 0.1 and apart[1] < BOUND


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_examples_see_their_own_positions_only(backend, name):
    model, weights = ours(backend, name)
    segments = backend.array(np.repeat([[1, 2, 3]], [9, 17, 14], axis=1).astype(np.int32))
    packed = backend.numpy(model(weights, backend.array(IDS[:1]), segments=segments))
    for start, stop in ((0, 9), (9, 26), (26, 40)):
        alone = backend.numpy(model(weights, backend.array(IDS[:1, start:stop])))
        assert np.abs(packed[:, start:stop] - alone).max() < BOUND


@pytest.mark.parametrize("filling", [0, 32])
@pytest.mark.parametrize("name", ["mistral, window 5", "gpt2", "llama, yarn"])
def test_prompts_of_unequal_length_are_answered_as_alone_and_as_transformers_does(backend, name, filling, monkeypatch):
    import torch

    monkeypatch.setattr("minigpt.generate.intake.FILLING", dict.fromkeys(("cpu", "gpu"), filling))
    model, weights = ours(backend, name)
    engine = Engine(model, weights, CharTokenizer(""))
    prompts = [IDS[0, :3].tolist(), IDS[1, :17].tolist(), IDS[0, :9].tolist()]
    together = [answer.ids for answer in engine.answer(prompts, GREEDY, 12)]
    assert together == [engine.answer([prompt], GREEDY, 12)[0].ids for prompt in prompts]
    for prompt, answer in zip(prompts, together, strict=True):
        with torch.no_grad():
            longer = theirs(name).generate(
                torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=[1, 3], pad_token_id=1
            )
        assert [i for i in longer[0, len(prompt) :].tolist() if i not in (1, 3)] == answer


@pytest.mark.parametrize("name", VARIANTS)
def test_config_json_and_tensors_come_back_unchanged(name):
    config = VARIANTS[name]
    content = config_json(config, "float32", [3, 1])
    assert model_config(content, None, "here") == config
    whole = theirs(name).config.to_dict()  # what transformers itself would save: many more keys
    assert model_config(whole, None, "here") == config
    flat = dict(tree.items(random_weights(config)))
    back = from_hugging_face(model_type_of(config), to_hugging_face(model_type_of(config), flat), config, "here")
    assert list(back) == list(flat) and all((back[key] == flat[key]).all() for key in flat)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gemma3"}, ["architecture 'gemma3'", "llama"]),
        ({"alibi": True}, ["key 'alibi'"]),
        ({"hidden_act": "gelu"}, ["hidden_act = 'gelu'"]),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, ["rope scaling 'longrope'"]),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}}, ["'mscale'"]),
        ({"rope_theta": 5.0}, ["two values of rope_theta"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types"]),
        ({"hidden_size": "big"}, ["hidden_size", "'big'"]),
        ({"num_key_value_heads": 3}, ["n_kv_head = 3"]),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, words):
    content = config_json(VARIANTS["llama"], "float32", [1]) | changes
    with pytest.raises(UsageError) as refused:
        model_config(content, None, "DIR/config.json")
    assert all(word in str(refused.value) for word in ["DIR/config.json", *words]), str(refused.value)


def test_a_mixture_that_nobody_else_knows_is_not_exported():
    with pytest.raises(UsageError, match="combination"):
        model_type_of(ModelConfig(**SHAPE, norm="layer"))


def test_a_chat_does_not_care_about_the_architecture(backend):
    model, weights = ours(backend, "gpt2")
    ids, _ = render(CharTokenizer(""), [{"role": "user", "content": "Hi"}], True)
    assert Engine(model, weights, CharTokenizer("")).answer([ids], GREEDY, 3)[0].ids
