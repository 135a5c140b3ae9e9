"""First weights that look back: where their heads attend, by a NumPy attention of its own."""

import numpy as np
import pytest

from minigpt.exchange.hf.architectures import model_type_of
from minigpt.model.gpt import init_weights
from minigpt.sections import ModelConfig

CONFIG = ModelConfig(vocab_size=400, qk_norm=True, rope_theta=1000.0, first_weights="induction")
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


def heads(config, ids):
    """The weights of attention (H, T, T) of layers 0 and 1, without what feed-forward layers add between them."""
    model = init_weights(config, 1)["model"]
    x = model["embed_tokens"]["weight"][ids].astype(float)
    added, first = attended(model["layers"][0], x)
    return first, attended(model["layers"][1], x + added)[1]


def test_a_head_of_the_first_layer_attends_its_distance_back():
    first, _ = heads(CONFIG, np.random.default_rng(0).integers(300, 400, 40))
    for head in range(CONFIG.n_head):
        assert np.diagonal(first[head], -head - 1).mean() > 0.9
    first, _ = heads(RANDOM, np.random.default_rng(0).integers(300, 400, 40))
    assert all(np.diagonal(first[head], -head - 1).mean() < 0.2 for head in range(CONFIG.n_head))


@pytest.mark.parametrize(("config", "low", "high"), [(CONFIG, 5, 45), (RANDOM, 0, 2)])
def test_the_second_layer_attends_to_what_followed_the_token_before(config, low, high):
    """Thirty tokens twice: how many times as much as even attention falls on the place after a token's first time."""
    ids = np.tile(np.random.default_rng(1).permutation(100)[:30] + 300, 2)
    second = heads(config, ids)[1][:: CONFIG.n_head // CONFIG.n_kv_head]  # a head of each group
    places = np.arange(28)
    for distance, weights in enumerate(second, 1):  # group 1: two after it
        found = weights[places + 30, places + distance] * (places + 31)  # 1: as much as if all were attended alike
        assert low < found.mean() < high


def test_all_other_weights_begin_as_without_it():
    begun, plain = init_weights(CONFIG, 3)["model"], init_weights(RANDOM, 3)["model"]
    assert model_type_of(CONFIG) == model_type_of(RANDOM) == "qwen3"  # other tools read both alike
    assert np.array_equal(begun["embed_tokens"]["weight"][:, 1:], plain["embed_tokens"]["weight"][:, 1:])
    for number, (one, other) in enumerate(zip(begun["layers"], plain["layers"], strict=True)):
        for name in other["mlp"]:
            assert np.array_equal(one["mlp"][name]["weight"], other["mlp"][name]["weight"])
        both = ((one["self_attn"][name]["weight"], leaf["weight"]) for name, leaf in other["self_attn"].items())
        same = [np.array_equal(*pair) for pair in both]
        assert all(same) if number > 1 else not any(same)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"n_layer": 1}, "two layers"), ({"positions": "alibi"}, "rotary"), ({"qk_norm": False}, "qk_norm = true"),
     ({"norm": "layer"}, "RMSNorm"), ({"n_kv_head": 4}, "below d_model")],
)  # fmt: skip
def test_what_cannot_begin_so_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        ModelConfig(**CONFIG.model_dump() | changes)
