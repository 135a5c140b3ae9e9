"""Each option of the model: causal, with the cache as without, packed as alone; and what it computes, by hand."""

import numpy as np
import pytest
from pydantic import ValidationError

from backends import tree
from minigpt.generate.cache import KVCache
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.model.gpt import GPT, flops_per_token, init_weights, parameter_count, to_backend
from minigpt.model.positions import alibi_slopes, sinusoids
from minigpt.model.rope import rope_base
from minigpt.parity.models import MODEL_CASES, random_weights
from minigpt.parity.options import OPTIONS
from minigpt.sections import ModelConfig, RopeScaling
from minigpt.text.characters import CharTokenizer
from minigpt.watch.inside import Watched

CASES = {case.name: case.config for case in MODEL_CASES if case.name in OPTIONS}
BOUND = 2e-5
IDS = np.random.default_rng(1).integers(0, 61, (2, 14)).astype(np.int32)


def logits(backend, name, ids, **rows):
    model = GPT(CASES[name], backend)
    return backend.numpy(model(to_backend(backend, random_weights(CASES[name])), backend.array(ids), **rows))


@pytest.mark.parametrize("name", CASES)
def test_later_tokens_change_nothing_before_them(backend, name):
    changed = IDS.copy()
    changed[:, 9:] = 60 - changed[:, 9:]
    before, after = logits(backend, name, IDS), logits(backend, name, changed)
    assert np.abs(before[:, :9] - after[:, :9]).max() < BOUND
    assert np.abs(before[:, 9] - after[:, 9]).max() > 1e-3  # a token does change its own logits


@pytest.mark.parametrize("name", CASES)
def test_with_the_cache_as_without_and_rows_as_alone(backend, name):
    """One row in pieces; and rows of unequal length together, the last tokens alone followed to the end."""
    whole = logits(backend, name, IDS)
    model, weights = GPT(CASES[name], backend), to_backend(backend, random_weights(CASES[name]))
    cache, found = KVCache(backend, model.config, 2, 14, "float32"), []
    for start, stop in ((0, 5), (5, 6), (6, 13), (13, 14)):
        found.append(backend.numpy(model(weights, backend.array(IDS[:, start:stop]), cache=cache)))
    assert np.abs(np.concatenate(found, axis=1) - whole).max() < BOUND
    lengths = np.array([4, 9])
    cache = KVCache(backend, model.config, 2, 14, "float32")
    read = model(weights, backend.array(IDS[:, :9]), cache=cache, lengths=lengths.tolist(), last=2)
    for row, length in enumerate(lengths):
        assert np.abs(backend.numpy(read)[row] - whole[row, length - 2 : length]).max() < BOUND
    following = np.stack([IDS[row, length : length + 2] for row, length in enumerate(lengths)])
    read = backend.numpy(model(weights, backend.array(following), cache=cache))
    for row, length in enumerate(lengths):
        assert np.abs(read[row] - whole[row, length : length + 2]).max() < BOUND


@pytest.mark.parametrize("name", CASES)
def test_packed_examples_are_as_alone(backend, name):
    segments = backend.array(np.repeat([[3, 7]], [6, 8], axis=1).astype(np.int32))
    packed = logits(backend, name, IDS[:1], segments=segments)
    for start, stop in ((0, 6), (6, 14)):
        assert np.abs(packed[:, start:stop] - logits(backend, name, IDS[:1, start:stop])).max() < BOUND


def test_sinusoids_are_those_of_the_paper(backend):
    found = backend.numpy(sinusoids(backend, backend.array(np.array([0, 3, 200])), 6))
    for row, place in zip(found, (0, 3, 200), strict=True):
        expected = [f(place / 10000 ** (2 * i / 6)) for i in range(3) for f in (np.sin, np.cos)]
        assert np.abs(row - expected).max() < 2e-5


def test_alibi_slopes_are_those_of_the_paper():
    assert alibi_slopes(8) == tuple(2.0**-i for i in range(1, 9))
    assert alibi_slopes(6) == (0.25, 0.0625, 2.0**-6, 2.0**-8, 0.5, 0.125)  # four heads', and every second of eight's


def test_alibi_is_a_bias_of_the_scores(backend):
    """Scores by hand: q · k scaled, less slope times distance."""
    q, k, v = (np.random.default_rng(i).standard_normal((1, 2, 5, 4)).astype(np.float32) for i in range(3))
    slopes = alibi_slopes(2)
    distance = np.arange(5)[:, None] - np.arange(5)[None, :]
    scores = q @ k.swapaxes(-1, -2) * 0.5 - np.array(slopes)[:, None, None] * distance
    scores = np.where(distance >= 0, scores, -np.inf)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    expected = share / share.sum(-1, keepdims=True) @ v
    found = backend.attention(*map(backend.array, (q, k, v)), 0.5, backend.visible(5, 5, slopes=slopes))
    assert np.abs(backend.numpy(found) - expected).max() < 1e-5


def test_ntk_turns_the_slowest_pair_slower_by_the_factor_and_the_fastest_as_before():
    shape = {"n_head": 4, "d_model": 64, "vocab_size": 9}
    stretched = ModelConfig(**shape, rope_scaling=RopeScaling(kind="ntk", factor=4.0))
    plain, slow = 10000.0 ** (-14 / 16), rope_base(stretched) ** (-14 / 16)
    assert slow == pytest.approx(plain / 4)
    dynamic = ModelConfig(**shape, context=64, rope_scaling=RopeScaling(kind="dynamic", original_context=16))
    assert rope_base(dynamic) == pytest.approx(rope_base(stretched))
    assert rope_base(dynamic.model_copy(update={"context": 16})) == 10000.0


SMALL = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48, "vocab_size": 61, "context": 16}


def streams(backend, config, weights, ids=IDS, depth=0.0, **rows):
    """What goes into the first block and what comes out of each (B, T, d), float64; the normalized end of the last."""
    model = GPT(config, backend, stochastic_depth=depth)
    watched = Watched(model, attention=False)
    watched.omitted = model.omitted
    end = watched.hidden(to_backend(backend, weights), backend.array(ids), **rows)
    return [backend.numpy(x).astype(np.float64) for x in (watched.before, *watched.after, end)]


def changed(weights, **leaves):
    """The weights with other leaves, by the ends of their names (_ for .): what they are now -> what they shall be."""
    flat = dict(tree.items(weights))
    for end, change in leaves.items():
        for name in [name for name in flat if name.replace(".", "_").endswith(end)]:
            flat[name] = change(flat[name]).astype(np.float32)
    return tree.unflatten(flat)


def nothing(x):
    return 0 * x


def normalized(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def test_a_gate_is_a_factor_of_what_its_head_gives(backend):
    """The heads one by one, from models whose output reads one of them; the gates by hand."""
    config = ModelConfig(**SMALL | {"n_layer": 1, "head_gate": True})
    weights = changed(random_weights(config), down_proj_weight=nothing)
    layer = weights["model"]["layers"][0]
    plain = config.model_copy(update={"head_gate": False})
    without = tree.unflatten({name: x for name, x in tree.items(weights) if "head_gate" not in name})
    before, after, _ = streams(backend, config, weights)
    gates = 2 / (1 + np.exp(-(normalized(before) * layer["input_layernorm"]["weight"])
                            @ layer["self_attn"]["head_gate"]["weight"].T))  # (B, T, H)  # fmt: skip
    heads = np.repeat(np.eye(4), 8, axis=1)  # (H, H · D)
    given = [np.subtract(*streams(backend, plain, changed(without, o_proj_weight=lambda w, own=own: w * own))[1::-1])
             for own in heads]  # fmt: skip
    assert np.abs(before + sum(gates[..., h, None] * one for h, one in enumerate(given)) - after).max() < BOUND
    assert gates.std() > 0.1


def test_projected_values_are_those_of_the_embeddings_in_each_block(backend):
    """With scores of 0 attention is the mean so far, and with no values of its own that of the projections alone."""
    config = ModelConfig(**SMALL | {"positions": "none", "value_projection": True})
    weights = random_weights(config)
    none = ("1_mlp_down_proj_weight", "q_proj_weight", "1_self_attn_v_proj_weight")
    weights = changed(weights, **dict.fromkeys(none, nothing))
    before, first, second, _ = streams(backend, config, weights)
    assert np.abs(first - before).max() > 0.1
    attention = weights["model"]["layers"][1]["self_attn"]
    values = normalized(before) @ attention["embedding_proj"]["weight"].T  # (B, T, K · D)
    values = values * np.repeat(attention["value_mix"]["weight"], 8)
    mean = values.cumsum(axis=1) / np.arange(1, 15)[:, None]
    shared = np.repeat(mean.reshape(2, 14, 2, 1, 8), 2, axis=3).reshape(2, 14, 32)  # two heads read a group
    assert np.abs(first + shared @ attention["o_proj"]["weight"].T - second).max() < BOUND


def test_a_skip_adds_what_went_into_the_block_at_the_other_end(backend):
    config = ModelConfig(**SMALL | {"skips": True, "n_layer": 3})
    weights = random_weights(config)
    body = weights["model"]
    before, _, second, third, _ = streams(backend, config, weights)
    plain = ModelConfig(**SMALL | {"n_layer": 1})
    last = {"model": {**{name: x for name, x in body.items() if name != "skips"}, "layers": body["layers"][2:]}}
    given = (second + body["skips"][0]["weight"] * before).astype(np.float32)
    assert np.abs(streams(backend, plain, last, given)[1] - third).max() < BOUND
    assert len(body["skips"]) == 1  # the middle block gets nothing


@pytest.mark.parametrize("skips", [False, True])
def test_repeated_blocks_are_a_deeper_model_with_copies(backend, skips):
    config = ModelConfig(**SMALL | {"n_layer": 3, "repeat_layers": 2, "skips": skips})
    deeper = config.model_copy(update={"n_layer": 5, "repeat_layers": 0})
    weights = random_weights(config)
    layers = weights["model"]["layers"]
    copied = weights | {"model": weights["model"] | {"layers": [*layers, *layers[1:]]}}
    found, expected = (streams(backend, c, w) for c, w in ((config, weights), (deeper, copied)))
    assert len(found) == len(expected) == 7
    assert all(np.abs(a - b).max() < BOUND for a, b in zip(found, expected, strict=True))
    assert flops_per_token(config, 16) == flops_per_token(deeper, 16)
    assert parameter_count(config) < parameter_count(deeper)


def test_stochastic_depth_leads_rows_past_a_block(backend):
    """A row gets all of an output, divided by what is left, or nothing; half of them in the second of two blocks, a
    quarter in the first; none where training gives no keys.
    """
    config = ModelConfig(**SMALL)
    weights = changed(random_weights(config), down_proj_weight=nothing)
    ids, keys = np.repeat(IDS[:1], 200, axis=0), backend.array(np.arange(200, dtype=np.int32) * 7919)
    before, first, second, _ = streams(backend, config, weights, ids, dropout_keys=keys, depth=0.5)
    plain = streams(backend, config, weights)
    past = [np.abs(after - x).max(axis=(1, 2)) == 0 for x, after in ((before, first), (first, second))]
    assert [0.15 < past[0].mean() < 0.35, 0.4 < past[1].mean() < 0.6] == [True, True]
    assert 0.05 < (past[0] & past[1]).mean() < 0.2  # one does not tell of the other
    expected = before[0] + (plain[1][0] - plain[0][0]) / 0.75
    assert np.abs(first[~past[0]] - expected).max() < BOUND
    assert all(np.array_equal(a, b) for a, b in zip(streams(backend, config, weights, depth=0.5), plain, strict=True))


@pytest.mark.parametrize(
    "name", ["short convolution", "no positions, ReGLU, value embeddings", "gates of heads, values from projections"]
)
def test_what_is_learned_beside_begins_at_nothing(backend, name):
    """With first weights the option changes no logit: training begins as without it."""
    config = CASES[name]
    without = {"convolution": 0, "value_embeddings": False, "value_projection": False, "head_gate": False}
    plain = config.model_copy(update=without)
    found = [
        backend.numpy(GPT(c, backend)(to_backend(backend, init_weights(c, 1)), backend.array(IDS)))
        for c in (config, plain)
    ]
    assert np.abs(found[0] - found[1]).max() < 1e-6


def test_an_option_adds_the_leaves_that_it_needs_and_no_other():
    base = {"n_layer": 1, "n_head": 2, "n_kv_head": 1, "d_model": 8, "d_ff": 8, "vocab_size": 9}

    def more(**settings):
        found = [set(tree.names(init_weights(ModelConfig(**base | one), 1))) for one in (settings, {})]
        return {name.removeprefix("model.") for name in found[0] - found[1]}

    assert more(norm_placement="sandwich") == {
        "layers.0.pre_feedforward_layernorm.weight", "layers.0.post_feedforward_layernorm.weight"
    }  # fmt: skip
    assert more(convolution=2) == {"layers.0.self_attn.convolution.weight"}
    assert more(value_embeddings=True) == {"embed_values.weight", "layers.0.self_attn.value_mix.weight"}
    assert more(value_projection=True) == {
        "layers.0.self_attn.embedding_proj.weight", "layers.0.self_attn.value_mix.weight"
    }  # fmt: skip
    assert more(head_gate=True) == {"layers.0.self_attn.head_gate.weight"}
    assert more(repeat_layers=1, skips=True) == {"skips.0.weight"}
    assert more(token_shift=2) == more(positions="alibi") == more(attention_softcap=3.0) == set()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"positions": "alibi", "rope_scaling": RopeScaling(kind="linear", factor=2.0)}, "rope_scaling stretches"),
        ({"positions": "sinusoidal"}, "embedding_scale"),
        ({"positions": "alibi", "sliding_window": 4}, "fades with distance"),
        ({"parallel": True, "norm_placement": "post"}, "share one norm"),
        ({"attention_sinks": 2}, "without a sliding_window"),
        ({"sliding_window": 2, "attention_sinks": 2}, "fewer than"),
        ({"sliding_window": 2, "full_attention_every": 1}, "leaves no layer"),
        ({"token_shift": 3}, "cannot be divided by 6"),
        ({"token_shift": 1, "convolution": 1}, "choose one"),
        ({"rope_fraction": 0.1}, "must be even"),
        ({"value_embeddings": True, "value_projection": True}, "choose one"),
        ({"n_layer": 1, "skips": True}, "there is one"),
        ({"n_layer": 2, "repeat_layers": 3}, "more than n_layer"),
    ],
)
def test_senseless_combinations_are_refused_with_the_reason(settings, words):
    with pytest.raises(ValidationError, match=words):
        ModelConfig(d_model=128, n_head=4, **settings)


def test_dynamic_scaling_takes_no_factor():
    with pytest.raises(ValidationError, match="omit factor"):
        RopeScaling(kind="dynamic", factor=2.0, original_context=8)


@pytest.mark.parametrize("name", ["shift of two tokens", "window 4 with two sinks", "ALiBi, GeGLU"])
def test_prompts_of_unequal_length_are_answered_as_alone(backend, name):
    """Greedy answers of the engine, whose rows join and grow, against the whole text read anew for each token."""
    model, weights = GPT(CASES[name], backend), to_backend(backend, random_weights(CASES[name]))
    engine, prompts = Engine(model, weights, CharTokenizer("")), [IDS[0, :3].tolist(), IDS[1, :9].tolist()]
    for prompt, answer in zip(prompts, engine.answer(prompts, GREEDY, 5), strict=True):
        text = list(prompt)
        for token in answer.ids:
            scores = backend.numpy(model(weights, backend.array(np.array([text], np.int32))))[0, -1]
            assert scores.max() - scores[token] < BOUND
            text.append(token)
        assert len(text) > len(prompt)
