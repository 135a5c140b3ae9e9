"""Likelihoods of continuations against one pass per pair, and choices whose answer is known."""

import numpy as np
import pytest
from test_details import CONFIG, engine

from minigpt.errors import DataError
from minigpt.evaluate.choices import Choice, run_choices
from minigpt.evaluate.likelihood import likelihoods, split_ids
from minigpt.evaluate.questions import Question, confidences, greedy_answers, sampled_right

GENERATOR = np.random.default_rng(4)


def expected(one, context, continuation):
    """(log p, greedy) of the continuation, from logits of one pass over all that fits."""
    backend, whole = one.model.backend, (context + continuation)[-(CONFIG.context + 1) :]
    logits = backend.numpy(one.model(one.weights, backend.array(np.array([whole[:-1]], np.int32))))[0].astype(float)
    logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(
        -1, keepdims=True
    )
    count = min(len(continuation), len(whole) - 1)
    places, targets = np.arange(len(whole) - 1)[-count:], whole[-count:]
    return logs[places, targets].sum(), bool((logs[places].argmax(-1) == targets).all())


def test_likelihoods_against_one_pass_per_pair(backend):
    one = engine(backend, 2)
    pairs = [([int(x) for x in GENERATOR.integers(40, 200, n)], [int(x) for x in GENERATOR.integers(40, 200, m)])
             for n, m in ((1, 1), (3, 5), (20, 4), (23, 3), (40, 2), (2, 30), (7, 1))]  # fmt: skip
    for found, pair in zip(likelihoods(one, pairs), pairs, strict=True):
        logprob, greedy = expected(one, *pair)
        assert found.logprob == pytest.approx(logprob, abs=1e-4) and found.greedy == greedy
    with pytest.raises(DataError, match="Pair 0 has no context"):
        likelihoods(one, [([], [40])])


def test_what_greedy_decoding_writes_is_greedy(backend):
    one = engine(backend, 2)
    questions = [Question([{"role": "user", "content": text}], ["x"]) for text in ("a", "bc")]
    answers = greedy_answers(one, questions, 5)
    sure = confidences(one, questions, answers)
    from minigpt.evaluate.questions import prompt_of

    for question, answer, confidence in zip(questions, answers, sure, strict=True):
        (found,) = likelihoods(one, [(prompt_of(one, question), answer.ids)])
        assert found.greedy and found.logprob == pytest.approx(np.log(confidence), abs=1e-4)
    right = [Question(q.messages, [a.text]) for q, a in zip(questions, answers, strict=True)]
    assert (sampled_right(one, right, 3) <= 3).all()


def test_ids_of_a_continuation_are_those_of_the_whole(backend):
    one = engine(backend, 2)
    for context, continuation in (("The cat", " sat"), ("The cat ", "sat"), ("", "sat"), ("   ", "sat"), ("猫", "坐")):
        before, after = split_ids(one, context, continuation)
        assert one.tokenizer.decode(before + after) == context + continuation and before and after


def test_the_likelier_option_is_chosen(backend):
    """Each right option is the model's own greedy continuation, the others are rare bytes; one of four is wrong."""
    one = engine(backend, 2)
    items = []
    for text in ("ab", "cd", "ef", "gh"):
        from minigpt.generate.sampling import GREEDY

        ids = one.answer([one.tokenizer.encode(text)], GREEDY, 3)[0].ids
        likely = bytes(b for i in ids for b in one.tokenizer.bytes_of(i)).decode("latin1")
        pairs = [split_ids(one, text, option) for option in (likely, "zq!", "0x0")]
        order = np.argsort([-found.logprob for found in likelihoods(one, pairs)])
        options = [(likely, "zq!", "0x0")[i] for i in order]
        items.append(Choice(text, options, 0, text[0]))
    items[-1] = Choice(items[-1].context, items[-1].options, 2, "g")
    found = run_choices(one, "own", items)
    assert found.figures["accuracy"].value == 0.75 and found.chance == pytest.approx(1 / 3)
    assert [row.score for row in found.rows] == [1, 1, 1, 0] and found.groups["g"].value == 0
