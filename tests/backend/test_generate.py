"""Generation: cached or not, alone or in a batch, streamed or whole, the answer is the same."""

from dataclasses import replace

import numpy as np
import pytest

from backends import tree
from minigpt.errors import UsageError
from minigpt.generate import choice, scheduler
from minigpt.generate.engine import Engine, chat_prompt
from minigpt.generate.reading import of_like_length
from minigpt.generate.sampling import GREEDY, Sampling, with_seeds
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.text.characters import CharTokenizer
from minigpt.text.chatml import render
from minigpt.text.tokenizer import END_OF_TEXT, FIRST_BYTE, IM_END

BYTES = CharTokenizer("")
CONTEXT = 40
CONFIG = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=48, vocab_size=288, context=CONTEXT, tie_embeddings=False
)
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(FIRST_BYTE, 288, size).tolist() for size in (5, 1, 17, 9, 5, 30)]
SAMPLED = Sampling(1.0, seed=3)


def engine_of(backend):
    """A random model whose logits for control tokens are 0: greedily it never stops by itself."""
    weights = random_weights(CONFIG)
    weights["lm_head"]["weight"][:FIRST_BYTE] = 0
    return Engine(GPT(CONFIG, backend), to_backend(backend, weights), BYTES)


@pytest.fixture(scope="session")
def engine(backend):
    return engine_of(backend)


def streamed(engine, prompt, sampling, max_tokens):
    """(pieces, Answer)"""
    pieces, stream = [], engine.stream(prompt, sampling, max_tokens)
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def without_a_cache(engine, prompt, count):
    """Greedy answers from the whole text, computed anew for every token."""
    backend, text = engine.model.backend, list(prompt)
    for _ in range(count):
        logits = engine.model(engine.weights, backend.array(np.array([text], np.int32)))
        text.append(int(backend.numpy(logits)[0, -1].argmax()))
    return text[len(prompt) :]


# ---- the same answer on every way


@pytest.mark.parametrize("prompt", PROMPTS[:4], ids=len)
def test_cached_equals_uncached(engine, prompt):
    (answer,) = engine.answer([prompt], GREEDY, 16)
    assert answer.ids == without_a_cache(engine, prompt, 16)
    assert len(set(answer.ids)) > 3  # something else than one token again and again


def test_a_stale_cache_would_be_seen(engine, monkeypatch):
    """The comparison can fail: with a cache that loses its keys, the answer is another one."""
    hidden = GPT.hidden

    def forgets(self, weights, ids, cache=None, **rows):
        if cache is not None and cache.length > 0:
            cache.keys = [0 * k for k in cache.keys]
        return hidden(self, weights, ids, cache=cache, **rows)

    right = without_a_cache(engine, PROMPTS[0], 16)
    monkeypatch.setattr(GPT, "hidden", forgets)
    assert engine.answer([PROMPTS[0]], GREEDY, 16)[0].ids != right


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(0.8, 40, 0.9, 0.02, 1.3, seed=9)], ids=str)
def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone(engine, sampling):
    """Ids, text and the reason of the end: also of prompts that reach the end of the context before the others."""
    together = engine.answer(PROMPTS, sampling, 20)
    alone = [engine.answer([prompt], sampling, 20)[0] for prompt in PROMPTS]
    assert together == alone
    assert {answer.reason for answer in alone} >= {"length", "context"}


@pytest.mark.parametrize("filling", [0, 4, 100])
def test_prompts_may_be_read_together_or_each_by_itself(engine, monkeypatch, filling):
    """Groups of equal length, of some filling, and all in one: the same answers, in the prompts' own order."""
    monkeypatch.setattr("minigpt.generate.intake.FILLING", dict.fromkeys(("cpu", "gpu"), filling))
    together = engine.answer(PROMPTS, SAMPLED, 10)
    assert together == [engine.answer([prompt], SAMPLED, 10)[0] for prompt in PROMPTS]


def test_only_groups_that_are_read_side_by_side_start_streams(backend, engine, monkeypatch):
    """MLX's streams keep threads, and with them every later token of a single answer took twice as long."""
    if backend.lanes == 1:
        pytest.skip("nothing is computed side by side")
    from backends.mlx import linux_cpu

    started, streams = [], linux_cpu._streams
    monkeypatch.setattr(linux_cpu, "_streams", lambda: started.append(1) or streams())
    engine.answer([PROMPTS[0]], GREEDY, 2)
    assert not started
    monkeypatch.setattr("minigpt.generate.intake.FILLING", {"cpu": 0, "gpu": 0})
    engine.answer(PROMPTS, GREEDY, 2)
    assert started


@pytest.mark.parametrize("filling", [0, 100])
def test_rows_that_are_turned_as_the_longest_would_be_seen(engine, monkeypatch, filling):
    """The comparison can fail: with one position for all rows the shorter ones get other answers."""
    alone = [engine.answer([prompt], GREEDY, 10)[0] for prompt in PROMPTS]
    monkeypatch.setattr("minigpt.generate.intake.FILLING", dict.fromkeys(("cpu", "gpu"), filling))
    hidden = GPT.hidden

    def as_the_longest(self, weights, ids, cache, **rows):
        return hidden(self, weights, ids, cache=cache, positions=cache.longest, **rows)

    monkeypatch.setattr(GPT, "hidden", as_the_longest)
    assert engine.answer(PROMPTS, GREEDY, 10) != alone


def test_groups_of_prompts_take_no_more_filling_than_they_may():
    prompts = [5, 1, 17, 9, 5, 30]
    assert of_like_length(prompts, 0, 1000) == [[5], [2], [3], [0, 4], [1]]
    assert of_like_length(prompts, 8, 1000) == [[5], [2, 3], [0, 1, 4]]
    assert of_like_length(prompts, 100, 1000) == [[0, 1, 2, 3, 4, 5]]
    assert of_like_length(prompts, 100, 60) == [[2, 5], [0, 1, 3, 4]]
    assert of_like_length(prompts, 100, 9) == [[5], [2], [3], [0], [4], [1]]


def test_filling_that_is_seen_would_be_noticed(engine, monkeypatch):
    alone = [engine.answer([prompt], GREEDY, 10)[0] for prompt in PROMPTS]
    visible = engine.model.backend.visible
    monkeypatch.setattr(engine.model.backend, "visible", lambda *sizes, **_: visible(*sizes))
    assert engine.answer(PROMPTS, GREEDY, 10) != alone


def test_each_prompt_may_have_its_own_settings(engine):
    samplings = [GREEDY, *with_seeds(SAMPLED, 4), replace(SAMPLED, temperature=2.0)]
    together = engine.answer_each(PROMPTS, samplings, 10)
    assert together == [engine.answer([p], s, 10)[0] for p, s in zip(PROMPTS, samplings, strict=True)]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_a_stream_is_the_answer_in_pieces(engine, sampling):
    for prompt in PROMPTS[:3]:
        pieces, answer = streamed(engine, prompt, sampling, 20)
        assert answer == engine.answer([prompt], sampling, 20)[0]
        assert "".join(pieces) == answer.text == BYTES.decode(answer.ids)


def test_backends_draw_the_same_tokens(both):
    engines = [engine_of(backend) for backend in both]
    for sampling in (GREEDY, SAMPLED, replace(SAMPLED, seed=4), Sampling(0.9, 50, 0.95, 0.01, 1.1, seed=5)):
        first, second = (engine.answer(PROMPTS[:3], sampling, 20) for engine in engines)
        assert first == second, sampling


def test_seeds_decide(engine):
    answers = engine.answer_each([PROMPTS[0]] * 6, with_seeds(SAMPLED, 6), 12)
    assert len({tuple(answer.ids) for answer in answers}) == 6
    assert engine.answer([PROMPTS[0]] * 2, SAMPLED, 12) == [answers[0]] * 2


# ---- where an answer ends


def scripted(engine, monkeypatch, *scripts):
    """The model as it is, but the chosen tokens come from the scripts, one per prompt."""

    waiting, add = list(scripts), scheduler.Scheduler.add

    def added(self, request):
        sequence = add(self, request)
        if not waiting:
            waiting.extend(scripts)
        sequence.script = waiting.pop(0)
        return sequence

    def next_token(row, scores, share=None):
        assert scores.shape == (CONFIG.vocab_size,)
        place = len(row.ids)
        return row.take(row.script[place] if place < len(row.script) else 100)

    monkeypatch.setattr(scheduler.Scheduler, "add", added)
    monkeypatch.setattr(choice, "next_token", next_token)
    for module in (choice, scheduler):
        monkeypatch.setattr(module, "likeliest", lambda *_: None)
    return engine


@pytest.mark.parametrize("stop", [IM_END, END_OF_TEXT])
def test_a_stop_token_ends_the_answer_and_is_no_part_of_it(engine, monkeypatch, stop):
    scripted(engine, monkeypatch, [101, 102, stop, 103])
    (answer,) = engine.answer([[50, 51]], GREEDY, 10)
    assert (answer.ids, answer.text, answer.reason) == ([101, 102], "EF", "stop")
    assert streamed(engine, [50, 51], GREEDY, 10) == (["E", "F"], answer)


def test_a_stop_token_first_is_an_empty_answer(engine, monkeypatch):
    scripted(engine, monkeypatch, [IM_END])
    (answer,) = engine.answer([[50]], GREEDY, 10)
    assert (answer.ids, answer.text, answer.reason) == ([], "", "stop")
    assert streamed(engine, [50], GREEDY, 10) == ([], answer)


def test_in_a_batch_each_answer_ends_by_itself(engine, monkeypatch):
    scripted(engine, monkeypatch, [101, IM_END, 105], [101, 102, 103, END_OF_TEXT, 105], [101] * 9)
    answers = engine.answer([[50], [50, 51, 52], [50, 51]], GREEDY, 5)
    assert [(a.ids, a.reason) for a in answers] == [
        ([101], "stop"), ([101, 102, 103], "stop"), ([101] * 5, "length"),
    ]  # fmt: skip


def test_nothing_is_computed_when_all_have_stopped(engine, monkeypatch):
    calls = []
    hidden = GPT.hidden
    monkeypatch.setattr(GPT, "hidden", lambda *args, **rest: calls.append(1) or hidden(*args, **rest))
    scripted(engine, monkeypatch, [101, IM_END], [IM_END])
    engine.answer([[50], [50]], GREEDY, 30)
    assert len(calls) == 2


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=str)
def test_nothing_is_computed_behind_the_last_token(engine, monkeypatch, sampling):
    calls = []
    hidden = GPT.hidden
    monkeypatch.setattr(GPT, "hidden", lambda *args, **rest: calls.append(1) or hidden(*args, **rest))
    engine.answer([[50], [51, 52]], sampling, 4)
    assert len(calls) == 4


def test_a_token_that_is_begun_early_is_one_at_most(engine, monkeypatch):
    """A greedy answer ends at its stop token; a lazy framework has begun the token behind that, and no more."""
    calls = []
    hidden = GPT.hidden
    first, second = engine.answer([[50]], GREEDY, 2)[0].ids
    assert first != second
    monkeypatch.setattr(type(engine.tokenizer), "stops", {second})
    monkeypatch.setattr(GPT, "hidden", lambda *args, **rest: calls.append(1) or hidden(*args, **rest))
    assert engine.answer([[50]], GREEDY, 30)[0].reason == "stop"
    assert len(calls) == (3 if engine.model.backend.lazy else 2)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "length", "reason"),
    [(5, 7, 7, "length"), (5, CONTEXT - 5, CONTEXT - 5, "length"), (5, 100, CONTEXT - 5, "context"),
     (CONTEXT - 1, 3, 1, "context"), (CONTEXT - 1, 1, 1, "length")],
)  # fmt: skip
def test_lengths(engine, prompt, max_tokens, length, reason):
    ids = [FIRST_BYTE + 65] * prompt
    (answer,) = engine.answer([ids], GREEDY, max_tokens)
    assert (len(answer.ids), answer.reason) == (length, reason)
    assert streamed(engine, ids, GREEDY, max_tokens)[1] == answer


def test_a_stop_token_behind_the_context_is_not_seen(engine, monkeypatch):
    """In a batch with a shorter prompt a token is drawn that the longer one alone would not draw."""
    scripted(engine, monkeypatch, [101, IM_END], [101, 102, 103])
    longer, shorter = engine.answer([[50] * (CONTEXT - 1), [50]], GREEDY, 3)
    assert (longer.ids, longer.reason) == ([101], "context")
    assert (shorter.ids, shorter.reason) == ([101, 102, 103], "length")


@pytest.mark.parametrize("prompts", [[[]], [[50], []], [[50] * CONTEXT], [[50], [50] * (CONTEXT + 3)]])
def test_prompts_that_do_not_fit_are_refused(engine, prompts):
    with pytest.raises(UsageError, match=f"it must have 1 to {CONTEXT - 1}"):
        engine.answer(prompts, GREEDY, 4)


def test_no_prompts_no_answers(engine):
    assert engine.answer([], GREEDY, 4) == []


# ---- characters across tokens


def test_a_character_is_streamed_when_its_last_byte_is_there(engine, monkeypatch):
    scripted(engine, monkeypatch, BYTES.encode("aé中😀b") + [IM_END])
    pieces, answer = streamed(engine, [50], GREEDY, 30)
    assert pieces == ["a", "é", "中", "😀", "b"] and answer.text == "aé中😀b"


def test_a_character_that_is_cut_off_becomes_the_replacement_sign(engine, monkeypatch):
    scripted(engine, monkeypatch, BYTES.encode("a中")[:-1] + [IM_END])
    pieces, answer = streamed(engine, [50], GREEDY, 30)
    assert pieces == ["a", "\ufffd"] and answer.text == "a\ufffd"


def test_control_tokens_in_an_answer_have_no_text(engine, monkeypatch):
    scripted(engine, monkeypatch, [*BYTES.encode("a"), 2, 7, *BYTES.encode("b"), IM_END])
    pieces, answer = streamed(engine, [50], GREEDY, 30)
    assert pieces == ["a", "b"] and answer.text == "ab" and len(answer.ids) == 4


# ---- memory


def test_generation_keeps_no_graph_and_leaves_the_weights(engine):
    before = [engine.model.backend.numpy(w) for w in tree.leaves(engine.weights)]
    engine.answer(PROMPTS[:2], SAMPLED, 5)
    for w, old in zip(tree.leaves(engine.weights), before, strict=True):
        assert (engine.model.backend.numpy(w) == old).all()


# ---- conversations that outgrow the context


def turn(role, content):
    return {"role": role, "content": content}


TURNS = [turn(role, f"{number}{role[0]}") for number in range(4) for role in ("user", "assistant")][:-1]
SYSTEM = turn("system", "S")


@pytest.mark.parametrize("system", [[], [SYSTEM]])
def test_the_oldest_turns_are_dropped_and_the_system_message_stays(system):
    """In pairs of question and answer, so that the conversation still begins with a question."""
    messages = system + TURNS  # 0u 0a 1u 1a 2u 2a 3u
    whole = len(render(BYTES, messages, generation_prompt=True)[0])
    for dropped, kept in ((0, TURNS), (2, TURNS[2:]), (4, TURNS[4:]), (6, TURNS[6:])):
        ids = render(BYTES, system + kept, generation_prompt=True)[0]
        assert chat_prompt(BYTES, messages, len(ids) + 5, 5) == (ids, dropped)
        assert chat_prompt(BYTES, messages, len(ids) + 4, 5)[1] == min(dropped + 2, 6)  # one token less: two turns less
    assert chat_prompt(BYTES, messages, whole + 5, 5)[0] == render(BYTES, messages, generation_prompt=True)[0]


def test_the_last_question_stays_however_long(engine):
    messages = [SYSTEM, *TURNS[:-1], turn("user", "x" * 1000)]
    ids, dropped = chat_prompt(BYTES, messages, 100, 20)
    assert dropped == 6 and BYTES.show(ids).startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nxxx")
    assert len(ids) > 1000  # the caller says that it is too long
