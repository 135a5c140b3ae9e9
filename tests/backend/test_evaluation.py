"""Measurements: nats, bits per byte and per character from the model's own logits, and answers in the rows' order."""

import math

import numpy as np
import pytest

from minigpt.data.batches import PackedRows, ValidationText
from minigpt.data.shards import Shard, ShardWriter
from minigpt.data.world import rows as world
from minigpt.evaluate.world import greedy_answers, question
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.text.characters import CharTokenizer
from minigpt.text.chatml import render
from minigpt.text.tokenizer import END_OF_TEXT
from minigpt.train.measure import divergence, evaluate_language

TOKENIZER = CharTokenizer("abc中")  # other characters are bytes
LENGTH = 16
MODEL = ModelConfig(n_layer=2, n_head=2, n_kv_head=1, d_model=16, d_ff=24, vocab_size=292, context=256)
TEXT = "abc中 def 中é😀 cab" * 4


@pytest.fixture(scope="module")
def model(backend):
    return GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))


def nats(backend, model, ids):
    """-log p of every token but the first, from one forward pass over `ids`."""
    network, weights = model
    logits = backend.numpy(network(weights, backend.array(np.array([ids[:-1]], np.int32))))[0].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return [-logprobs[t, token] for t, token in enumerate(ids[1:])]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_measures_of_a_text(backend, model, tmp_path, batch_size):
    """Window by window; an end of text is a token to predict, but no byte and no character."""
    ids = [*TOKENIZER.encode(TEXT), END_OF_TEXT]
    with ShardWriter(tmp_path / "s", 292, masked=False) as writer:
        writer.add(ids)
    rows = ValidationText(Shard(tmp_path / "s"), LENGTH)
    found = evaluate_language(*model, rows, TOKENIZER, batch_size)
    windows = [ids[i : i + LENGTH + 1] for i in range(0, len(ids) - 1, LENGTH)]
    total = sum(sum(nats(backend, model, window)) for window in windows)
    first = TOKENIZER.token_bytes[ids[0]].decode()
    assert (found["tokens"], found["bytes"]) == (len(ids) - 1, len(TEXT.encode()) - len(first))
    assert found["characters"] == len(TEXT) - 1
    assert found["loss"] == pytest.approx(total / (len(ids) - 1), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / (len(ids) - 1)), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(total / math.log(2) / found["bytes"], rel=1e-5)
    assert found["nats_per_character"] == pytest.approx(total / found["characters"], rel=1e-5)


def test_answers_are_measured_without_their_prompts_and_neighbours(backend, model, tmp_path):
    """Two conversations in one row: each as it is alone, and only the tokens that SFT learns from."""
    said = (("ab", "中é"), ("c", "a"))
    talks = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in said]
    rendered = [render(TOKENIZER, talk) for talk in talks]
    with ShardWriter(tmp_path / "s", 292, masked=True) as writer:
        for ids, mask in rendered:
            writer.add(ids, mask)
    rows = PackedRows(Shard(tmp_path / "s"), 128, seed=1)
    assert rows.count == 1
    found = evaluate_language(*model, rows, TOKENIZER, 4)
    learned = [n for ids, mask in rendered for n, m in zip(nats(backend, model, ids), mask[1:], strict=True) if m]
    assert found["tokens"] == len(learned) == (1 + 2 + 1) + (1 + 1)  # 中, two bytes of é, end; a, end
    assert found["loss"] == pytest.approx(np.mean(learned), rel=1e-5)
    assert (found["bytes"], found["characters"]) == (len("中éa".encode()), 3)


def test_a_limit_measures_some_rows_spread_evenly(model, tmp_path):
    with ShardWriter(tmp_path / "s", 292, masked=False) as writer:
        writer.add(TOKENIZER.encode(TEXT * 5))
    rows = ValidationText(Shard(tmp_path / "s"), LENGTH)
    whole, some = (evaluate_language(*model, rows, TOKENIZER, 4, limit) for limit in (None, 5))
    assert some["tokens"] == 5 * LENGTH < whole["tokens"]
    assert evaluate_language(*model, rows, TOKENIZER, 4, 10**6) == whole


def test_answers_come_in_the_order_of_the_questions(model):
    """They are computed in batches of similar length, and still each is what its question gets alone."""
    engine = Engine(*model, TOKENIZER)
    rows = list(world.instructions(1, 12, "test"))
    prompts = [render(TOKENIZER, question(row), generation_prompt=True)[0] for row in rows]
    lengths = [len(prompt) for prompt in prompts]
    assert lengths != sorted(lengths) and max(lengths) < MODEL.context
    done = []
    found = greedy_answers(engine, rows, done.append)
    assert found == [engine.answer([prompt], GREEDY, 64)[0].text for prompt in prompts]
    assert done[-1] == 12


def test_a_question_is_everything_before_the_last_answer():
    turns = [{"role": role, "content": str(i)} for i, role in enumerate(["user", "assistant", "user", "assistant"])]
    assert question({"messages": turns}) == turns[:3]
    assert question({"messages": turns[:3]}) == turns[:3]


@pytest.mark.parametrize("batch_size", [1, 100])
def test_divergence_of_two_models(backend, model, tmp_path, batch_size):
    ids = [*TOKENIZER.encode(TEXT), END_OF_TEXT]
    with ShardWriter(tmp_path / "s", 292, masked=False) as writer:
        writer.add(ids)
    rows = ValidationText(Shard(tmp_path / "s"), LENGTH)
    other = to_backend(backend, random_weights(MODEL, seed=9))
    found = divergence(*model, other, rows, batch_size)
    nats, same = [], []
    for start in range(0, len(ids) - 1, LENGTH):
        window = backend.array(np.array([ids[start : start + LENGTH + 1][:-1]], np.int32))
        p, q = (backend.numpy(model[0](tree, window))[0].astype(np.float64) for tree in (model[1], other))
        p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in (p, q))
        nats += (p * np.log(p / q)).sum(axis=-1).tolist()
        same += (p.argmax(-1) == q.argmax(-1)).tolist()
    assert found["kl_divergence"] == pytest.approx(np.mean(nats), rel=1e-4) and np.mean(nats) > 0.1
    assert found["same_choice"] == pytest.approx(np.mean(same)) and 0 <= np.mean(same) < 0.5
    itself = divergence(*model, model[1], rows, batch_size)
    assert itself == {"kl_divergence": pytest.approx(0, abs=1e-6), "same_choice": 1}
