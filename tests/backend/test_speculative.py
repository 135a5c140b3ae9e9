"""Speculative decoding: whoever drafts, and however well, the answer is the plain engine's, token for token."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from once import by_turns

from backends.base import ALL
from minigpt.errors import UsageError
from minigpt.generate import choice, scheduler
from minigpt.generate.batch import Batch
from minigpt.generate.engine import Engine
from minigpt.generate.proposers import PromptLookup, drafting, lookup
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.generate.speculate import Speculation
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.text.characters import CharTokenizer
from minigpt.text.tokenizer import FIRST_BYTE, IM_END

CONTEXT = 64
CONFIG = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=48, vocab_size=288, context=CONTEXT, tie_embeddings=False
)
VARIANTS = {
    "plain": {},
    "window": {"sliding_window": 7},
    "gpt2": {"positions": "learned", "norm": "layer", "feed_forward": "gelu"},
}
RNG = np.random.default_rng(0)
WORD = RNG.integers(FIRST_BYTE, 288, 6).tolist()
PROMPTS = [RNG.integers(FIRST_BYTE, 288, size).tolist() for size in (1, 9, 46)] + [WORD * 4]
SAMPLINGS = [GREEDY, Sampling(0.7, seed=3), Sampling(1.0, 40, 0.9, 0.02, seed=4), Sampling(0.0, repetition_penalty=1.3)]


def engine_of(backend, kv_bits=0, seed=None, **changes):
    """A random model; with a seed another one. Greedily it never stops by itself."""
    config = CONFIG.model_copy(update=changes)
    weights = random_weights(config) if seed is None else init_weights(config, seed)
    weights["lm_head"]["weight"][:FIRST_BYTE] = 0
    return Engine(GPT(config, backend), to_backend(backend, weights), CharTokenizer(""), kv_bits)


@pytest.fixture(scope="session")
def engine(backend):
    return engine_of(backend)


class Oracle:
    """Knows the answer, and says every `wrong`th token of it wrongly."""

    def __init__(self, text, wrong=10**9):
        self.text, self.wrong = text, wrong

    def propose(self, text, count):
        places = range(len(text), min(len(text) + count, len(self.text)))
        return [self.text[i] if (i + 1) % self.wrong else FIRST_BYTE for i in places]


def knowing(engine, prompt, sampling, wrong=10**9, most=8):
    """A speculation that knows the plain engine's answer."""
    oracle = Oracle(prompt + engine.streamed(prompt, sampling, CONTEXT).ids, wrong)
    return Speculation(lambda *_: oracle, most)


def speculations(engine):
    """Look-up, and drafts that are the model itself and another one."""
    yield lookup(8)
    yield lookup(1)
    yield drafting(engine, engine, 5)
    yield drafting(engine, engine_of(engine.model.backend, seed=7, n_layer=1), 5)


# ---- the same answer


@by_turns("sampling,variant", itertools.product(SAMPLINGS, VARIANTS))
def test_the_answer_is_the_plain_engines(backend, sampling, variant):
    """Ids, text and the reason of the end, also of the prompt that reaches the context's end."""
    engine = engine_of(backend, **VARIANTS[variant])
    plain = [engine.streamed(prompt, sampling, 24) for prompt in PROMPTS]
    assert {answer.reason for answer in plain} >= {"length", "context"}
    for speculation in speculations(engine):
        assert [engine.streamed(prompt, sampling, 24, speculation) for prompt in PROMPTS] == plain


@by_turns("bits", [4, 8])
def test_with_keys_in_few_bits(backend, bits):
    """A key between two codes may be rounded the other way in a wider pass: all but a few answers are the same."""
    engine = engine_of(backend, bits)
    plain = [engine.streamed(prompt, GREEDY, 20) for prompt in PROMPTS]
    for speculation in speculations(engine):
        same = [engine.streamed(p, GREEDY, 20, speculation) == a for p, a in zip(PROMPTS, plain, strict=True)]
        assert sum(same) >= 3, same


@pytest.fixture(scope="module")
def answers(engine):
    """Sampling -> the plain engine's answer."""
    return {sampling: engine.streamed(PROMPTS[1], sampling, 30) for sampling in SAMPLINGS[:2]}


MOST = (1, 2, 8, 100)


@by_turns("wrong,most", [(wrong, MOST[(i + j) % 4]) for i, wrong in enumerate((1, 2, 3, 7)) for j in range(4)])
def test_wherever_the_first_wrong_draft_token_is(engine, answers, wrong, most):
    for sampling, plain in answers.items():
        oracle = Oracle(PROMPTS[1] + plain.ids, wrong)
        speculation = Speculation(lambda *_, oracle=oracle: oracle, most)
        assert engine.streamed(PROMPTS[1], sampling, 30, speculation) == plain


def test_a_cache_that_is_not_cut_back_would_be_seen(engine, monkeypatch):
    """The comparison can fail: with the keys of wrong draft tokens left in the cache, the answer is another one."""
    speculation = knowing(engine, PROMPTS[1], GREEDY, wrong=3)
    plain = engine.streamed(PROMPTS[1], GREEDY, 30)
    assert engine.streamed(PROMPTS[1], GREEDY, 30, speculation) == plain
    monkeypatch.setattr(Batch, "keep", lambda self: None)
    assert engine.streamed(PROMPTS[1], GREEDY, 30, speculation) != plain
    assert engine.streamed(PROMPTS[1], GREEDY, 30, knowing(engine, PROMPTS[1], GREEDY)) == plain  # nothing to cut


def test_a_mask_that_shows_later_draft_tokens_would_be_seen(engine, monkeypatch):
    monkeypatch.setattr(engine.model.backend, "visible", lambda *_, **__: ALL)
    plain = engine.streamed([50], GREEDY, 30)  # one token after the other: the mask does not matter
    assert engine.streamed([50], GREEDY, 30, knowing(engine, [50], GREEDY, wrong=2)) != plain


# ---- where an answer ends


@pytest.mark.parametrize("end", [0, 1, 4, 5, 6])
def test_a_stop_token_among_the_draft_tokens(engine, monkeypatch, end):
    """What was drafted and computed after it is not part of the answer."""
    ids = [*range(101, 101 + end), IM_END, *range(120, 150)]
    for module in (choice, scheduler):
        monkeypatch.setattr(module, "likeliest", lambda *_: None)
        monkeypatch.setattr(module, "next_token", lambda row, *scores: row.take(ids[len(row.ids)]))
    speculation = Speculation(lambda *_: Oracle([50, 51, *ids]))
    answer = engine.streamed([50, 51], GREEDY, 30, speculation)
    assert (answer.ids, answer.reason) == (ids[:end], "stop")
    assert speculation.tokens == end  # the first one came with the prompt


@pytest.mark.parametrize(
    ("prompt", "max_tokens"), [(5, 1), (5, 2), (5, 3), (CONTEXT - 1, 9), (CONTEXT - 2, 9), (CONTEXT - 3, 9)]
)
def test_no_draft_reaches_beyond_the_end(engine, prompt, max_tokens):
    """The cache has room for the answer only, and a learned position must exist."""
    ids = [FIRST_BYTE + 65] * prompt
    for speculation in speculations(engine):
        assert engine.streamed(ids, GREEDY, max_tokens, speculation) == engine.streamed(ids, GREEDY, max_tokens)


@pytest.mark.parametrize("prompt", [[], [50] * CONTEXT])
def test_prompts_that_do_not_fit_are_refused(engine, prompt):
    with pytest.raises(UsageError, match=f"it must have 1 to {CONTEXT - 1}"):
        engine.streamed(prompt, GREEDY, 4, lookup(8))


def test_a_draft_may_see_less(engine, backend):
    draft = engine_of(backend, context=20)
    speculation = drafting(engine, draft, 4)
    assert engine.streamed([50] * 10, GREEDY, 40, speculation) == engine.streamed([50] * 10, GREEDY, 40)
    assert speculation.drafted == speculation.accepted == 8  # texts of 10 to 20 tokens: two passes give a token more
    assert engine.streamed([50] * 30, GREEDY, 20, speculation) == engine.streamed([50] * 30, GREEDY, 20)
    assert speculation.drafted == 8


# ---- what is drafted, and how much that saves


def test_a_draft_with_other_tokens_is_refused(engine, backend):
    letters = CharTokenizer("abcdefgh")
    other = Engine(engine_of(backend, vocab_size=letters.vocab_size).model, {}, letters)
    with pytest.raises(UsageError, match="tokens are not the model's"):
        drafting(engine, other, 4)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_of_a_draft_that_is_the_model_every_token_is_right(engine, sampling):
    """Also of sampled answers: it draws with the same seed and position, and sees the same text."""
    speculation = drafting(engine, engine, 4)
    answer = engine.streamed(PROMPTS[1], sampling, 41, speculation)
    assert len(answer.ids) == 1 + speculation.tokens == 41
    assert speculation.drafted == speculation.accepted == 32 and speculation.passes == 8


def test_of_another_random_model_hardly_any_is(engine, backend):
    speculation = drafting(engine, engine_of(backend, seed=7), 4)
    engine.streamed(PROMPTS[1], replace(SAMPLINGS[1], temperature=3.0), 40, speculation)
    assert speculation.accepted <= 0.2 * speculation.drafted
    assert speculation.passes >= speculation.tokens - speculation.accepted


def test_good_drafts_become_longer(engine):
    """4, 6 and 8 draft tokens, and each pass gives one token more."""
    speculation = knowing(engine, PROMPTS[1], GREEDY)
    engine.streamed(PROMPTS[1], GREEDY, 1 + 5 + 7 + 9 + 9, speculation)
    assert (speculation.passes, speculation.tokens, speculation.drafted, speculation.accepted) == (4, 30, 26, 26)


def test_bad_drafts_become_shorter(engine):
    """4, 3, 2, and then one at a time; none in the last pass, which gives the last token anyway."""
    speculation = knowing(engine, PROMPTS[1], GREEDY, wrong=1)
    engine.streamed(PROMPTS[1], GREEDY, 11, speculation)
    assert (speculation.passes, speculation.drafted, speculation.accepted) == (10, 4 + 3 + 2 + 6, 0)


A, B, C, D, E = range(5)


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ([A], []),
        ([A, B, C], []),
        ([A, A], [A] * 5),  # one token before: the copy goes on with itself
        ([A, B, C, D, A], [B, C, D, A, B]),
        ([A, B, C, A, B, D, A, B], [D, A, B, D, A]),  # the last place counts
        ([D, A, B, C, E, A, B, E, D, A, B], [C, E, A, B, E]),  # but three tokens count more than two
    ],
)
def test_look_up(text, draft):
    assert PromptLookup().propose(text, 5) == draft
    grown = PromptLookup()
    assert [grown.propose(text[:end], 5) for end in range(1, len(text) + 1)][-1] == draft
    assert grown.propose(text, 2) == draft[:2]
    assert grown.propose(text, 0) == []


def test_look_up_is_as_good_as_a_search_from_the_end():
    """Against brute force, on texts of few kinds of tokens that grow by one to four tokens."""

    def searched(text, count):
        for size in (3, 2, 1):
            for place in range(len(text) - 1, size - 1, -1):
                if text[place - size : place] == text[len(text) - size :]:
                    longer = list(text)
                    for i in range(count):
                        longer.append(longer[place + i])
                    return longer[len(text) :]
        return []

    rng = np.random.default_rng(1)
    for kinds in (1, 2, 5, 20):
        text, found = rng.integers(0, kinds, 60).tolist(), PromptLookup()
        for end in np.cumsum(rng.integers(1, 5, 24)):
            assert found.propose(text[:end], 6) == searched(text[:end], 6), text[:end]
