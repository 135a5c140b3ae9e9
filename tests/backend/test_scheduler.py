"""The scheduler: whoever joins or leaves, whatever is known already, each answer is what it is alone."""

from dataclasses import replace

import numpy as np
import pytest

from minigpt.errors import MiniGPTError, UsageError
from minigpt.generate import choice
from minigpt.generate.batch import Batch
from minigpt.generate.engine import Engine
from minigpt.generate.proposers import lookup
from minigpt.generate.request import NO_TOKEN, Request
from minigpt.generate.sampling import GREEDY, Sampling, log_softmax
from minigpt.generate.scheduler import Scheduler
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.text.characters import CharTokenizer
from minigpt.text.tokenizer import FIRST_BYTE

CONTEXT = 56
CONFIG = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=48, vocab_size=288, context=CONTEXT, tie_embeddings=False
)
BYTES = CharTokenizer("")
SETTINGS = (
    GREEDY, GREEDY, Sampling(1.0, seed=3), Sampling(0.8, 40, 0.9, 0.02, 1.3, seed=9),
    Sampling(0.7, seed=4, frequency_penalty=0.5, presence_penalty=0.3, no_repeat_ngram=3, logit_bias=((90, 2.0),)),
)  # fmt: skip


def engine_of(backend, kv_bits=0, change=lambda weights: weights, **options):
    """A random model; greedily it never stops by itself."""
    config = CONFIG.model_copy(update=options)
    weights = random_weights(config)
    weights["lm_head"]["weight"][:FIRST_BYTE] = 0
    return Engine(GPT(config, backend), to_backend(backend, change(weights)), BYTES, kv_bits)


@pytest.fixture(scope="session")
def engine(backend):
    return engine_of(backend)


def requests_of(count, seed, speculate=False):
    """Unequal ones: some have a beginning in common, some are equal, some reach the end of the context."""
    rng = np.random.default_rng(seed)
    begin = rng.integers(FIRST_BYTE, 288, 40).tolist()
    found = []
    for i in range(count):
        prompt = rng.integers(FIRST_BYTE, 288, rng.integers(1, 30)).tolist()
        if i % 3 == 0:
            prompt = begin[: rng.integers(10, 40)] + prompt[: rng.integers(0, 20)]
        if i % 7 == 6:
            prompt = list(found[-1].prompt)
        speculation = lookup(4) if speculate and i % 2 else None
        settings = SETTINGS[i % len(SETTINGS)]
        logprobs = 2 if i % 4 == 0 else None
        found.append(Request(prompt, settings, int(rng.integers(1, 30)), (), logprobs, None, speculation))
    return found


def alone(engine, request):
    return engine.answers([replace(request, speculation=None)])[0]


def crowd(scheduler, requests, rng, most=4, cancels=()):
    """Add up to `most` requests between two steps, at random; [sequence], and the pieces that each was given."""
    left, sequences, pieces = list(requests), [], {}
    while left or not scheduler.idle:
        for _ in range(rng.integers(0, most) if left else 0):
            if left:
                sequences.append(scheduler.add(left.pop(0)))
        for number in cancels:
            if number < len(sequences) and rng.random() < 0.3:
                scheduler.cancel(sequences[number])
        for token in scheduler.step():
            pieces.setdefault(id(token.sequence), []).append(token)
        assert scheduler.running <= scheduler.rows
    return sequences, pieces


def same(sequence, answer):
    shown = sequence.ids, sequence.text, sequence.reason, sequence.stop
    return shown == (answer.ids, answer.text, answer.reason, answer.stop)


@pytest.fixture(scope="session")
def single_answers(engine):
    return [alone(engine, request) for request in requests_of(64, 1)]


@pytest.mark.parametrize("cache_bytes", [0, 60_000, 2**24], ids=["unknown", "little", "known"])
def test_64_requests_that_join_and_leave_at_random_get_what_each_gets_alone(engine, single_answers, cache_bytes):
    """Half with draft tokens, chunks shorter than many prompts, a few rows for many requests, some cancelled."""
    requests, cancelled = requests_of(64, 1, speculate=True), (5, 20, 21, 40)
    scheduler = Scheduler(engine, rows=6, chunk=16, cache_bytes=cache_bytes)
    sequences, pieces = crowd(scheduler, requests, np.random.default_rng(2), cancels=cancelled)
    assert {sequence.reason for sequence in sequences} >= {"length", "context", "cancelled"}
    for number, sequence in enumerate(sequences):
        answer = single_answers[number]
        if sequence.reason == "cancelled":
            assert number in cancelled and sequence.ids == answer.ids[: len(sequence.ids)]
            continue
        assert same(sequence, answer), number
        assert "".join(token.text for token in pieces[id(sequence)]) == answer.text
        assert [token.done for token in pieces[id(sequence)]].index(True) == len(pieces[id(sequence)]) - 1
    metrics = scheduler.metrics
    assert (metrics.prefix_hits > 0) == (cache_bytes > 0)
    assert metrics.prefix_bytes <= cache_bytes
    assert metrics.kv_usage == 0 and scheduler.running == scheduler.waiting == 0


def test_rows_that_keep_a_neighbours_keys_would_be_seen(engine, monkeypatch):
    """The comparison can fail: the last row takes a free place without its keys."""
    requests = requests_of(8, 1)
    monkeypatch.setattr("minigpt.generate.cache.KVCache.copy_row", lambda *_: None)
    sequences, _ = crowd(Scheduler(engine, rows=4, cache_bytes=0), requests, np.random.default_rng(2))
    assert not all(same(s, alone(engine, r)) for s, r in zip(sequences, requests, strict=True))


@pytest.mark.parametrize("bits", [8, 4])
def test_with_keys_in_few_bits(backend, bits):
    """A close call between two codes may go the other way where a prompt is read in other pieces."""
    engine, requests = engine_of(backend, bits), requests_of(6, 3)
    sequences, _ = crowd(Scheduler(engine, 4, cache_bytes=0), requests, np.random.default_rng(4))
    assert sum(same(s, alone(engine, r)) for s, r in zip(sequences, requests, strict=True)) >= 5


def test_with_an_adapter(backend):
    """With matrices of low rank beside those of the attention."""
    rng = np.random.default_rng(1)

    def adapted(weights):
        for layer in weights["model"]["layers"]:
            for name in ("q_proj", "v_proj"):
                leaves = layer["self_attn"][name]
                width, depth = leaves["weight"].shape
                leaves["lora_a"], leaves["lora_b"] = (
                    rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((4, depth), (width, 4))
                )
                leaves["lora_scale"] = np.float32(2)
        return weights

    first = requests_of(1, 5)[0]
    assert alone(engine_of(backend, change=adapted), first) != alone(engine_of(backend), first)
    engine, requests = engine_of(backend, change=adapted), requests_of(10, 5)
    sequences, _ = crowd(Scheduler(engine, 4), requests, np.random.default_rng(4))
    assert all(same(s, alone(engine, r)) for s, r in zip(sequences, requests, strict=True))


VARIANTS = {
    "window": {"sliding_window": 7}, "learned": {"positions": "learned"}, "convolution": {"convolution": 3},
    "experts": {"experts": 4, "expert_width": 24},
    "gates, projected values, skips, a block twice": {
        "head_gate": True, "value_projection": True, "skips": True, "repeat_layers": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_whatever_the_model_is_made_of(backend, options):
    """What attention sees or keeps is of the row's own places; with known beginnings, chunks and draft tokens."""
    engine, requests = engine_of(backend, **options), requests_of(7, 5, speculate=True)
    sequences, _ = crowd(Scheduler(engine, 4, chunk=12), requests, np.random.default_rng(4))
    assert all(same(s, alone(engine, r)) for s, r in zip(sequences, requests, strict=True))
    assert max(sequence.cached for sequence in sequences) >= 8


def test_exact_scores_do_not_depend_on_who_else_is_there(engine):
    """With `exact` every log-probability is the same to the bit, alone, in a crowd, and with a known beginning."""
    requests = [replace(one, logprobs=1) for one in requests_of(14, 6)]
    together, _ = crowd(Scheduler(engine, 8, 16, exact=True), requests, np.random.default_rng(7))
    for request, found in zip(requests, together, strict=True):
        scheduler = Scheduler(engine, 8, 16, 0, exact=True)
        single = scheduler.add(request)
        while not scheduler.idle:
            scheduler.step()
        assert found.logprobs == single.logprobs


def test_nobody_waits_behind_a_long_prompt(engine):
    """While a prompt is read in pieces of 8 tokens, the running row gets a token in each step."""
    scheduler = Scheduler(engine, rows=2, chunk=8)
    quick = scheduler.add(Request([50, 51], GREEDY, 20))
    scheduler.step()
    slow = scheduler.add(Request([60 + i for i in range(40)], GREEDY, 5))
    given = [[token.sequence for token in scheduler.step()] for _ in range(5)]
    assert given == [[quick]] * 4 + [[quick, slow]]
    assert scheduler.running == 2 and 0 < scheduler.metrics.kv_usage < 1


def test_a_short_prompt_passes_a_long_one(engine):
    """Prompts take turns, a chunk each: the short one does not wait until the long one is read."""
    scheduler = Scheduler(engine, rows=2, chunk=8, cache_bytes=0)
    scheduler.add(Request([60 + i for i in range(40)], GREEDY, 5))
    scheduler.step()
    short = scheduler.add(Request([50, 51], GREEDY, 5))
    given = [token.sequence for _ in range(3) for token in scheduler.step()]
    assert given and given[0] is short


def test_a_known_beginning_is_not_read_again(engine, monkeypatch):
    """Of a prompt with 30 known tokens only the rest is computed, and the answer is the same."""
    widths, hidden = [], GPT.hidden
    scheduler = Scheduler(engine, rows=2)
    begin = [70 + i for i in range(30)]
    first, second = (Request([*begin, *end], GREEDY, 12) for end in ((40, 41, 42), (43, 44)))
    expected = [alone(engine, request) for request in (first, second)]
    found = [scheduler.add(first)]
    while not scheduler.idle:
        scheduler.step()

    def counted(self, weights, ids, **rest):
        widths.append(ids.shape[1])
        return hidden(self, weights, ids, **rest)

    monkeypatch.setattr(GPT, "hidden", counted)
    found.append(scheduler.add(second))
    while not scheduler.idle:
        scheduler.step()
    assert widths == [2, *[1] * 11]
    assert found[1].cached == 30 and found[0].cached == 0 and found[1].prompt_tokens == 32
    assert all(same(sequence, answer) for sequence, answer in zip(found, expected, strict=True))
    again = scheduler.add(Request([*first.prompt, *found[0].ids, 99], GREEDY, 3))  # as the next turn of a chat
    scheduler.step()
    assert again.cached == len(first.prompt) + 11


def test_prompts_with_one_beginning_that_come_together_read_it_once(engine):
    begin = [70 + i for i in range(40)]
    scheduler = Scheduler(engine, rows=8)
    sequences = [scheduler.add(Request([*begin, 50 + i], GREEDY, 4)) for i in range(6)]
    scheduler.step()
    assert (scheduler.running, scheduler.waiting) == (1, 5)
    while not scheduler.idle:
        scheduler.step()
    assert [sequence.cached for sequence in sequences] == [0] + [40] * 5
    assert all(same(s, alone(engine, s.request)) for s in sequences)


def test_the_batch_grows_to_what_is_needed_and_no_further(engine):
    """A row's places double up to the context, rows as they come; nothing is held when all have left."""
    scheduler, shapes = Scheduler(engine, rows=5, cache_bytes=0), set()
    for i in range(5):
        scheduler.add(Request([50 + i], GREEDY, CONTEXT - 1))
        scheduler.step()
        scheduler.step()
        shapes.add(tuple(scheduler._batch.cache.keys[0].shape[::2]))
    while not scheduler.idle:
        scheduler.step()
    assert max(shapes) == (8, CONTEXT) and all(capacity <= CONTEXT for _, capacity in shapes)
    assert scheduler._batch.cache is None


def test_a_row_that_fails_ends_alone(engine, monkeypatch):
    right, sampled = choice.sample, Sampling(1.0, seed=3)

    def fails(scores, sampling, seen, position, *given):
        if sampling.seed == 7 and position == 3:
            raise MiniGPTError("This one is broken.")
        return right(scores, sampling, seen, position, *given)

    requests = [Request([50 + i], replace(sampled, seed=5 + i), 9) for i in range(4)]
    expected = [alone(engine, request) for request in requests]
    monkeypatch.setattr(choice, "sample", fails)
    scheduler, told = Scheduler(engine, rows=4), []
    sequences = [scheduler.add(request) for request in requests]
    while not scheduler.idle:
        told += scheduler.step()
    assert (sequences[2].reason, sequences[2].error) == ("error", "This one is broken.")
    assert sequences[2].ids == expected[2].ids[:3]
    assert [token.done for token in told if token.id == NO_TOKEN] == [True]
    assert all(same(s, a) for i, (s, a) in enumerate(zip(sequences, expected, strict=True)) if i != 2)
    with pytest.raises(MiniGPTError, match="This one is broken"):
        engine.answers([requests[2]])


def test_after_a_pass_that_fails_the_next_requests_are_answered(engine, monkeypatch):
    scheduler = Scheduler(engine, rows=2)
    lost = scheduler.add(Request([50], GREEDY, 9))
    scheduler.step()
    with monkeypatch.context() as broken:
        broken.setattr(Batch, "logits", lambda *_: 1 / 0)
        scheduler.step() and scheduler.step()
    assert lost.reason == "error" and "ZeroDivisionError" in lost.error
    found = scheduler.add(Request([50], GREEDY, 9))
    while not scheduler.idle:
        scheduler.step()
    assert same(found, alone(engine, found.request))


def test_prompts_that_do_not_fit_are_refused_before_anything_runs(engine):
    scheduler = Scheduler(engine)
    for prompt in ([], [50] * CONTEXT):
        with pytest.raises(UsageError, match=f"1 to {CONTEXT - 1}"):
            scheduler.add(Request(prompt, GREEDY, 4))
    with pytest.raises(UsageError, match="max_tokens"):
        scheduler.add(Request([50], GREEDY, 0))
    assert scheduler.idle and scheduler.step() == []


def test_log_probabilities_are_those_of_the_models_logits(engine):
    """Against a forward pass over the whole text; before temperature and filters, whatever was chosen."""
    (answer,) = engine.answers([Request([50, 51, 52], Sampling(0.7, top_k=5, seed=2), 8, logprobs=3)])
    backend, text = engine.model.backend, [50, 51, 52, *answer.ids]
    logits = backend.numpy(engine.model(engine.weights, backend.array(np.array([text[:-1]], np.int32))))[0, 2:]
    expected = log_softmax(logits.astype(np.float64))
    assert np.abs(np.exp(expected).sum(-1) - 1).max() < 1e-9
    for row, found, token in zip(expected, answer.logprobs, answer.ids, strict=True):
        assert found.token == token and found.logprob == pytest.approx(row[token], abs=1e-4)
        assert [i for i, _ in found.alternatives] == np.argsort(-row)[:3].tolist()
        assert [x for _, x in found.alternatives] == pytest.approx(sorted(row)[::-1][:3], abs=1e-4)
