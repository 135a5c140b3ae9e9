"""Adapters without a framework: which leaves there are, what merging means, and what is refused."""

import numpy as np
import pytest

from backends.tree import items, names
from minigpt.errors import UsageError
from minigpt.model.gpt import init_weights, parameter_count
from minigpt.model.lora import (
    init_adapter,
    is_adapted,
    join,
    layer_at,
    lora_shapes,
    merge,
    scales,
    target_layers,
    trained_count,
)
from minigpt.sections import ModelConfig, StageConfig, TuneConfig

MODEL = ModelConfig(n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48, vocab_size=60, context=16)
UNTIED = MODEL.model_copy(update={"tie_embeddings": False})
RNG = np.random.default_rng(0)


def weight_in(base):
    return lambda layer: layer_at(base, layer)["weight"]


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_the_shapes_of_an_adapter():
    shapes = lora_shapes(MODEL, TuneConfig(lora_rank=4, lora_targets=["k_proj", "down_proj"]))
    assert len(shapes) == 3 * 2 * 2
    assert shapes["model.layers.2.self_attn.k_proj.lora_a"] == (4, 32)
    assert shapes["model.layers.2.self_attn.k_proj.lora_b"] == (16, 4)  # two key/value heads of 8
    assert shapes["model.layers.0.mlp.down_proj.lora_a"] == (4, 48)
    with_magnitude = lora_shapes(MODEL, TuneConfig(lora_rank=4, lora_targets=["k_proj"], dora=True))
    assert with_magnitude["model.layers.1.self_attn.k_proj.lora_magnitude"] == (16,)


def test_without_targets_every_matrix_of_the_blocks_has_one():
    assert len(target_layers(UNTIED, [])) == 3 * 7
    assert "lm_head" not in target_layers(UNTIED, [])
    assert target_layers(UNTIED, ["lm_head"]) == {"lm_head": (60, 32)}


def test_what_is_trained_is_counted():
    assert trained_count(MODEL, TuneConfig()) == trained_count(MODEL, StageConfig()) == parameter_count(MODEL)
    config = TuneConfig(lora_rank=2, lora_targets=["q_proj"])
    assert trained_count(MODEL, config) == 3 * 2 * (32 + 32)
    assert is_adapted(config) and not is_adapted(TuneConfig()) and not is_adapted(StageConfig())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"lora_rank": 4, "lora_targets": ["query"]}, "Known are: q_proj, k_proj, v_proj, o_proj, gate_proj"),
        ({"lora_rank": 4, "lora_targets": ["lm_head"]}, "lm_head"),  # tied: there is none
        ({"lora_rank": 4, "lora_targets": ["embed_tokens"]}, "embed_tokens"),
        ({"lora_rank": 17}, "k_proj is wide (16 x 32). Choose at most 16"),
    ],
)
def test_what_the_model_does_not_have_is_refused(settings, word):
    with pytest.raises(UsageError) as error:
        lora_shapes(MODEL, TuneConfig(**settings))
    assert word in str(error.value)


def test_a_new_adapter_changes_nothing():
    base = init_weights(MODEL, seed=1)
    for dora in (False, True):
        adapter = init_adapter(weight_in(base), lora_shapes(MODEL, TuneConfig(lora_rank=4, dora=dora)), seed=1)
        merged = merge(join(join(base, adapter), scales(adapter, 2.0)))
        assert names(merged) == names(base)
        for (name, a), (_, b) in zip(items(merged), items(base), strict=True):
            assert np.abs(a - b).max() < 1e-6, name
    first = adapter["model"]["layers"][0]["self_attn"]["q_proj"]["lora_a"]
    assert np.abs(first).max() <= 32**-0.5 < 1.1 * np.abs(first).max()
    again = init_adapter(weight_in(base), lora_shapes(MODEL, TuneConfig(lora_rank=4, lora_targets=["q_proj"])), seed=1)
    assert (again["model"]["layers"][0]["self_attn"]["q_proj"]["lora_a"] == first).all()  # whatever else is there


def test_merging_in_plain_sight():
    w = {"weight": normal(5, 7), "lora_a": normal(2, 7), "lora_b": normal(5, 2), "lora_scale": np.float32(0.5)}
    other = {"weight": normal(3, 3), "bias": normal(3)}
    merged = merge({"layers": [w, other]})["layers"]
    assert merged[0].keys() == {"weight"} and merged[1] == other
    expected = w["weight"] + 0.5 * np.einsum("or,ri->oi", w["lora_b"], w["lora_a"])
    assert np.allclose(merged[0]["weight"], expected, atol=1e-6)
    magnitude = np.abs(normal(5))
    merged = merge(w | {"lora_magnitude": magnitude})["weight"]
    assert np.allclose(np.linalg.norm(merged, axis=1), magnitude, rtol=1e-6)
    assert np.allclose(merged, magnitude[:, None] * expected / np.linalg.norm(expected, axis=1)[:, None], atol=1e-6)


def test_joining_copies_no_array_and_allows_gaps():
    base = {"model": {"layers": [{"a": {"weight": normal(2, 2)}} for _ in range(3)]}}
    more = {"model": {"layers": {"1": {"a": {"lora_a": normal(1, 2)}}}}}
    joined = join(base, more)["model"]["layers"]
    assert names(join(base, more)) == [
        "model.layers.0.a.weight", "model.layers.1.a.weight", "model.layers.1.a.lora_a", "model.layers.2.a.weight"
    ]  # fmt: skip
    assert joined[1]["a"]["weight"] is base["model"]["layers"][1]["a"]["weight"]
    assert "lora_a" not in base["model"]["layers"][1]["a"]
