"""Looking inside a model changes nothing of it, and what is shown is what was computed."""

import numpy as np
import pytest

from backends.base import Visible
from backends.tree import items
from minigpt.errors import UsageError
from minigpt.generate.engine import Engine
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.sections import ModelConfig
from minigpt.text.learn import train_tokenizer
from minigpt.watch.inside import attention_weights, look_inside
from minigpt.watch.inside_page import blocks_of, inside_page, picture, shade


@pytest.fixture(scope="module")
def engine(backend):
    tokenizer = train_tokenizer("byte", [], 0)
    config = ModelConfig(
        n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48, context=64, vocab_size=tokenizer.vocab_size
    )
    return Engine(GPT(config, backend), to_backend(backend, init_weights(config, 1)), tokenizer)


def test_the_last_layer_says_what_the_model_says(engine):
    ids = engine.tokenizer.encode("Hello you")
    found, backend = look_inside(engine, ids), engine.model.backend
    logits = backend.numpy(engine.model(engine.weights, backend.array(np.array([ids], np.int32))))[0]  # (T, V)
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    best = chances.argmax(-1)
    assert [p for _, p in found.lens[-1]] == pytest.approx(chances.max(-1), rel=1e-5)
    assert found.following[0][1] == pytest.approx(chances[-1, best[-1]], rel=1e-5)
    assert found.surprise[0] is None
    assert found.surprise[1:] == pytest.approx([chances[t, i] for t, i in enumerate(ids[1:])], rel=1e-5)
    assert len(found.lens) == 4 and "".join(found.tokens) == "Hello you"


def test_attention_is_a_share_of_the_tokens_before(engine):
    found = look_inside(engine, engine.tokenizer.encode("Hello you"))
    assert found.attention.shape == (3, 4, 9, 9)
    assert found.attention.sum(-1) == pytest.approx(np.ones((3, 4, 9)), rel=1e-5)
    assert (np.triu(found.attention, 1) == 0).all() and found.attention[0, 0, 5, :5].max() > 0


def test_the_weights_explain_what_attention_returns(backend):
    """Weights times values is what the backend's own attention gives, heads sharing keys."""
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((1, heads, 5, 8)).astype(np.float32) for heads in (4, 2, 2))
    shares = attention_weights(q, k, 0.3, None)
    expected = backend.numpy(backend.attention(*map(backend.array, (q, k, v)), 0.3))
    assert shares @ np.repeat(v, 2, axis=1) == pytest.approx(expected, abs=1e-5)
    slopes = np.where(np.tril(np.ones((5, 5), bool)), -0.5 * np.abs(np.subtract.outer(range(5), range(5))), -1e30)
    bias = np.broadcast_to(slopes, (1, 4, 5, 5)).astype(np.float32)
    seen = Visible(bias=backend.array(bias))
    expected = backend.numpy(backend.attention(*map(backend.array, (q, k, v)), 0.3, seen, 2.0))
    shares = attention_weights(q, k, 0.3, None, 2.0, bias)
    assert shares @ np.repeat(v, 2, axis=1) == pytest.approx(expected, abs=1e-5)


def test_neighbours_are_those_with_the_highest_cosine(engine):
    found, backend = look_inside(engine, engine.tokenizer.encode("Hi")), engine.model.backend
    table = backend.numpy(dict(items(engine.weights))["model.embed_tokens.weight"])
    token = engine.tokenizer.encode("H")[0]
    cosines = [(row @ table[token]) / np.linalg.norm(row) / np.linalg.norm(table[token]) for row in table]
    best = sorted(np.delete(cosines, token))[::-1][:6]
    assert [value for _, value in found.neighbours["H"]] == pytest.approx(best, rel=1e-5)


def test_prompts_that_cannot_be_looked_at(engine):
    for ids in ([], [300] * 65):
        with pytest.raises(UsageError, match="1 to 64 tokens"):
            look_inside(engine, ids)


def test_the_page_and_the_blocks(engine):
    found = look_inside(engine, engine.tokenizer.encode("a <b>"))
    text = inside_page(found, "a <b>")
    assert text.count("<img") == 12 and "<b>" not in text and "Layer 3, Head 4" in text
    lines = blocks_of(found, 0, 30)
    assert len(lines) == 2 * (1 + len(found.tokens) + 1)  # four heads, two beside each other
    assert [shade(share) for share in (0, 0.05, 0.2, 0.5, 1)] == [" ", "░", "▒", "▓", "█"]
    assert picture(np.eye(3)).startswith("data:image/png;base64,iVBORw0KGgo")
