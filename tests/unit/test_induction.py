"""First weights that look back: where their heads attend, by a NumPy attention of its own."""

import numpy as np
import pytest

from backends.tree import leaves
from minigpt.exchange.hf.architectures import model_type_of
from minigpt.model.gpt import init_weights
from minigpt.sections import ModelConfig

CONFIG = ModelConfig(vocab_size=400, qk_norm=True, rope_theta=10000.0, first_weights="induction")
RANDOM = CONFIG.model_copy(update={"first_weights": "random"})


def turned(x):
    """x (T, H, D) by the angles of its positions: the two halves of a head are the pairs' coordinates."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * CONFIG.rope_theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def attended(layer, x):
    """What a layer's attention adds to x (T, d), and its weights (H, T, T)."""
    c, w = CONFIG, {name: one["weight"].astype(float) for name, one in layer["self_attn"].items()}
    x = x / np.sqrt((x**2).mean(-1, keepdims=True))
    q = (x @ w["q_proj"].T).reshape(len(x), c.n_head, c.head_dim)
    k, v = ((x @ w[name].T).reshape(len(x), c.n_kv_head, c.head_dim) for name in ("k_proj", "v_proj"))
    q, k = (one / np.sqrt((one**2).mean(-1, keepdims=True)) * w[name] for one, name in ((q, "q_norm"), (k, "k_norm")))
    q, k = turned(q), turned(k)
    k, v = (np.repeat(one, c.n_head // c.n_kv_head, axis=1) for one in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) * c.head_dim**-0.5
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hts,shd->thd", weights, v).reshape(len(x), -1) @ w["o_proj"].T, weights


def stream(config, ids, seed=1):
    """The stream x (T, d) before layer 1, without what feed-forward layers add, layer 1 and the weights of layer 0."""
    model = init_weights(config, seed)["model"]
    x = model["embed_tokens"]["weight"][ids].astype(float)
    added, first = attended(model["layers"][0], x)
    return x + added, model, first


def test_a_head_of_the_first_layer_attends_its_distance_back():
    ids = np.random.default_rng(0).integers(300, 400, 40)
    first = stream(CONFIG, ids)[2]
    for head in range(CONFIG.n_head):
        assert np.diagonal(first[head], -head - 1).mean() > 0.9
    first = stream(RANDOM, ids)[2]
    assert all(np.diagonal(first[head], -head - 1).mean() < 0.2 for head in range(CONFIG.n_head))


TWICE = np.tile(np.random.default_rng(1).permutation(100)[:30] + 300, 2)  # thirty tokens, and the same again


@pytest.mark.parametrize(("config", "low", "high"), [(CONFIG, 0.6, 1), (RANDOM, 0, 0.1)])
def test_even_groups_of_the_second_layer_attend_to_what_came_next(config, low, high):
    x, model, _ = stream(config, TWICE)
    weights = attended(model["layers"][1], x)[1]
    places = np.arange(5, 29)
    for head in (0, 1):  # one that reads three tokens before, and one that reads the token and the one before
        assert low < weights[head, places + 30, places + 1].mean() < high


@pytest.mark.parametrize(("config", "low", "high"), [(CONFIG, 0.7, 1), (RANDOM, 0, 0.1)])
def test_odd_groups_ask_for_one_of_the_last_tokens_and_add_what_stood_before_it(config, low, high):
    x, model, _ = stream(config, TWICE)
    layer, places = model["layers"][1], np.arange(8, 30)
    weights = attended(layer, x)[1]
    table = model["embed_tokens"]["weight"].astype(float)
    for head, asked in ((2, 2), (3, 3)):
        assert low < weights[head, places + 30, places - asked].mean() < high  # and little the token asked for
        alone = {name: dict(leaf) for name, leaf in layer["self_attn"].items()}
        others = np.arange(CONFIG.d_model) // CONFIG.head_dim != head
        alone["o_proj"]["weight"] = np.where(others, 0, alone["o_proj"]["weight"])
        added = attended({"self_attn": alone}, x)[0]
        best = np.argsort(added[places + 30] @ table[300:400].T)[:, -2:] + 300
        for back in (2, 4):
            found = (best == TWICE[places - asked - back, None]).any(axis=1).mean()
            assert found > 0.7 if config is CONFIG else found < 0.2


@pytest.mark.parametrize(("config", "low", "high"), [(CONFIG, 0.8, 1), (RANDOM, 0, 0.2)])
def test_the_first_group_of_the_third_layer_looks_from_an_answer_to_the_end_of_its_question(config, low, high):
    x, model, _ = stream(config, TWICE)
    x = x + attended(model["layers"][1], x)[0]
    weights = attended(model["layers"][2], x)[1]
    for head, back in ((0, 4), (1, 5)):
        assert low < np.diagonal(weights[head], -back).mean() < high
    assert all(np.diagonal(weights[head], -4).mean() < 0.2 for head in (2, 3))


def test_the_two_tokens_of_a_word_begin_alike():
    """Each other token begins as without pairs, and so do all other leaves."""
    plain, begun = (init_weights(CONFIG, 1, pairs)["model"] for pairs in ((), [(300, 350), (301, 299)]))
    before, table = (model["embed_tokens"]["weight"] for model in (plain, begun))
    unit = table[:, 1:] / np.linalg.norm(table[:, 1:], axis=1, keepdims=True)
    for word, same in ((300, 350), (301, 299)):
        assert 0.7 < unit[word] @ unit[same] < 0.9 and abs(unit[word] @ unit[same + 1]) < 0.5
    assert np.flatnonzero((table != before).any(axis=1)).tolist() == [299, 350]
    assert all(np.array_equal(a, b) for a, b in zip(leaves(plain["layers"]), leaves(begun["layers"]), strict=True))


def test_layers_further_up_copy_embeddings():
    """Whatever is attended, values and output together give an embedding back, in its own direction."""
    model = init_weights(CONFIG, 1)["model"]
    table = model["embed_tokens"]["weight"][300:400].astype(float)
    for layer in model["layers"][2:]:
        v, o = (layer["self_attn"][name]["weight"].astype(float) for name in ("v_proj", "o_proj"))
        groups = (table @ v.T).reshape(len(table), CONFIG.n_kv_head, -1)
        values = np.repeat(groups, CONFIG.n_head // CONFIG.n_kv_head, axis=1)
        scores = values.reshape(len(table), -1) @ o.T @ table.T
        assert (scores.argmax(axis=1) == np.arange(len(table))).all()


def test_all_other_weights_begin_as_without_it():
    begun, plain = init_weights(CONFIG, 3)["model"], init_weights(RANDOM, 3)["model"]
    assert model_type_of(CONFIG) == model_type_of(RANDOM) == "qwen3"  # other tools read both alike
    sizes = [np.linalg.norm(model["embed_tokens"]["weight"][:, 1:], axis=1).mean() for model in (begun, plain)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.01
    for number, (one, other) in enumerate(zip(begun["layers"], plain["layers"], strict=True)):
        for name in other["mlp"]:
            assert np.array_equal(one["mlp"][name]["weight"], other["mlp"][name]["weight"])
        same = {
            name for name, leaf in other["self_attn"].items()
            if np.array_equal(one["self_attn"][name]["weight"], leaf["weight"])
        }  # fmt: skip
        assert same == (set() if number < 3 else {"q_proj", "k_proj", "q_norm", "k_norm"})


@pytest.mark.parametrize("changes", [
    {"n_head": 8, "n_kv_head": 8}, {"n_head": 8, "n_kv_head": 1}, {"n_head": 2, "n_kv_head": 1, "d_model": 64},
    {"n_head": 4, "n_kv_head": 2, "head_dim": 64}, {"n_head": 12, "n_kv_head": 4, "d_model": 768}, {"n_layer": 2},
    {"rope_theta": 10.0}, {"n_head": 1, "n_kv_head": 1, "d_model": 16},
])  # fmt: skip
def test_models_of_other_shapes_begin_so(changes):
    shape = CONFIG.model_dump(exclude={"head_dim"}) | changes
    weights = init_weights(ModelConfig(**shape), 1)
    assert all(np.isfinite(leaf).all() for leaf in leaves(weights))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"n_layer": 1}, "two layers"), ({"positions": "alibi"}, "rotary"), ({"qk_norm": False}, "qk_norm = true"),
     ({"norm": "layer"}, "RMSNorm")],
)  # fmt: skip
def test_what_cannot_begin_so_is_refused_or_begins_at_random(changes, reason):
    with pytest.raises(ValueError, match=reason):
        ModelConfig(**CONFIG.model_dump() | changes)
    either = ModelConfig(**CONFIG.model_dump() | changes | {"first_weights": "auto"})
    assert not either.looks_up
    begun, plain = (init_weights(either.model_copy(update={"first_weights": way}), 1) for way in ("auto", "random"))
    assert all(np.array_equal(*pair) for pair in zip(leaves(begun), leaves(plain), strict=True))


def test_auto_begins_so_where_it_can():
    auto, looking = (init_weights(CONFIG.model_copy(update={"first_weights": w}), 1) for w in ("auto", "induction"))
    assert all(np.array_equal(*pair) for pair in zip(leaves(auto), leaves(looking), strict=True))
