"""Where a model fails: gradient × input against differences, hard rows and wrong answers whose place is known."""

import numpy as np
import pytest
from test_details import engine, shard

from minigpt.evaluate.attribution import attributions
from minigpt.evaluate.failures import find_failures, items_of_questions, items_of_shard
from minigpt.evaluate.questions import Question, answers_of


def test_attribution_is_the_change_when_an_embedding_grows(backend):
    """d log p / d a at a = 0, where token t's embedding is (1 + a) × its own, by central differences."""
    one = engine(backend, 3)
    prompt, answer = [50, 60, 61, 60, 99], [100, 45]
    found = attributions(one, prompt, answer)
    whole = np.array([*prompt, *answer])
    table = backend.numpy(one.weights["model"]["embed_tokens"]["weight"])
    inputs = table[whole[:-1]][None]  # (1, T, d)

    def logprob(inputs):
        logits = backend.numpy(one.model(one.weights, backend.array(inputs.astype(np.float32))))[0].astype(float)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return sum(logs[t, whole[t + 1]] for t in range(len(prompt) - 1, len(whole) - 1))

    assert len(found) == len(whole) - 1
    for place in range(len(found)):
        moved = [inputs.copy(), inputs.copy()]
        for sign, one_moved in zip((1, -1), moved, strict=True):
            one_moved[0, place] *= 1 + sign * 1e-2
        expected = (logprob(moved[0]) - logprob(moved[1])) / 2e-2
        assert found[place] == pytest.approx(expected, abs=2e-3)


def test_wrong_answers_and_hard_rows(backend):
    """Right answers are the model's own for three of five questions; the last row has an unlikely one."""
    one = engine(backend, 1)
    asked = [Question([{"role": "user", "content": f"q{i}"}], ["?"], "ab"[i % 2]) for i in range(5)]
    given = answers_of(one, asked, longest=20)
    rows = [Question(q.messages, [answer if i < 3 else "zz"], q.task)
            for i, (q, answer) in enumerate(zip(asked, given, strict=True))]  # fmt: skip
    found = find_failures(one, items_of_questions(one, rows), shard(True), examples=1, worst=2)
    assert found.rows == 5 and found.right.rows == 5
    assert sum(found.kinds.values()) == round((1 - found.right.value) * 5)
    assert sum(sum(counts.values()) for counts in found.by_task.values()) == 5
    assert {one.right for one in found.hard} <= {"zz"} | set(given) and found.hard[0].loss >= found.hard[1].loss
    for wrong in found.wrong:
        assert wrong.kind in found.kinds and len(wrong.near) == 3
    tokens = sum(len(one.tokenizer.encode(row.references[0])) + 1 for row in rows)
    for groups in found.groups.values():
        assert sum(group.tokens for group in groups) == tokens


def test_held_out_rows_are_taken_apart_at_the_last_answer(backend):
    one, data = engine(backend, 1), shard(True)
    items = items_of_shard(one, data)
    learned = [i for i in range(len(data)) if data.sequence(i)[1].any()]
    assert len(items) == len(learned)
    for item, number in zip(items, learned, strict=True):
        ids, mask = data.sequence(number)
        end = int(np.flatnonzero(mask)[-1]) + 1
        assert item.prompt + item.answer == [int(i) for i in ids[:end]]
        assert mask[len(item.prompt) : end].all() and (not item.prompt or not mask[len(item.prompt) - 1])
    texts = items_of_shard(one, shard(False), 4)
    assert len(texts) == 4 and find_failures(one, texts).right is None
