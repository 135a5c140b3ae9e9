"""A model's figures with intervals: they are those of training's own measure; two models on the same rows."""

import numpy as np
import pytest

from minigpt.data.batches import PackedRows, ValidationText
from minigpt.data.shards import MemoryShard
from minigpt.evaluate.details import differences, of_answers, of_text
from minigpt.evaluate.questions import Question, answers_of, questions_of
from minigpt.generate.engine import Engine
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.sections import ModelConfig
from minigpt.text.learn import train_tokenizer
from minigpt.train.measure import evaluate_language

TOKENIZER = train_tokenizer("byte", ["a"], 300)
CONFIG = ModelConfig(
    n_layer=1, n_head=2, n_kv_head=1, d_model=16, d_ff=24, context=24, vocab_size=TOKENIZER.vocab_size
)  # fmt: skip
GENERATOR = np.random.default_rng(0)


def engine(backend, seed):
    return Engine(GPT(CONFIG, backend), to_backend(backend, init_weights(CONFIG, seed)), TOKENIZER)


def shard(masked):
    """30 sequences of 5 to 20 tokens; of the masked ones about a half of the tokens count."""
    ends = np.cumsum(GENERATOR.integers(5, 20, 30))
    ids = GENERATOR.integers(20, CONFIG.vocab_size, int(ends[-1]))
    return MemoryShard(ids, ends, (GENERATOR.random(len(ids)) < 0.5).astype(np.uint8) if masked else None)


@pytest.mark.parametrize("masked", [False, True])
def test_figures_are_those_of_training(backend, masked):
    one, data = engine(backend, 1), shard(masked)
    rows = PackedRows(data, CONFIG.context, 0) if masked else ValidationText(data, CONFIG.context)
    expected = evaluate_language(one.model, one.weights, rows, TOKENIZER, 4)
    found = of_text(one, data, data)
    figures, counted = found.figures(), sum(not masked or data.sequence(i)[1][1:].any() for i in range(30))
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert figures[name].value == pytest.approx(expected[name], rel=1e-4)
        assert figures[name].low < figures[name].value < figures[name].high and figures[name].rows == counted
    for name in ("position", "occurrences in the training data"):
        assert sum(group.tokens for group in found.groups[name]) == expected["tokens"]


def test_a_model_beside_itself_and_beside_another(backend):
    data = shard(False)
    first, second = of_text(engine(backend, 1), data), of_text(engine(backend, 2), data)
    assert [(one.name, one.p) for one in differences(first, first)] == [("loss", 1.0), ("bits_per_byte", 1.0)]
    other = differences(first, second)[0]
    assert other.difference.value == pytest.approx(second.figures()["loss"].value - first.figures()["loss"].value)
    assert other.difference.low < other.difference.value < other.difference.high


def test_answers_by_task(backend):
    """The references are the model's own answers for one task, and others for the second."""
    one = engine(backend, 1)
    asked = [Question([{"role": "user", "content": f"q{i}"}], ["?"], "ab"[i % 2]) for i in range(6)]
    given = answers_of(one, asked, longest=6)
    right = [[answer if q.task == "a" else "no"] for q, answer in zip(asked, given, strict=True)]
    rows = [Question(q.messages, answers, q.task) for q, answers in zip(asked, right, strict=True)]
    found = of_answers(one, rows)
    shares = {group.label: group.figures["exact_match"] for group in found.groups["task"]}
    assert shares["b"].value == 0.0 and shares["a"].rows == shares["b"].rows == 3
    assert found.figures()["exact_match"].rows == 6 and set(found.more) >= {"distinct_1", "repetition", "self_bleu"}


def test_questions_of_a_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        '{"instruction": "1+1?", "output": "2", "task": "sum", "references": ["2", "two"]}\n'
        '{"prompt": "Hi", "completion": "Hello"}\n'
        '{"prompt": "Hi", "chosen": "Hello", "rejected": "No", "subject": "manner"}\n'
    )
    found = questions_of([str(tmp_path / "rows.jsonl")], tmp_path)
    assert [(q.references, q.task) for q in found] == [(["2", "two"], "sum"), (["Hello"], ""), (["Hello"], "manner")]
    assert found[0].messages == [{"role": "user", "content": "1+1?"}]
    assert len(questions_of([str(tmp_path / "rows.jsonl")], tmp_path, limit=2)) == 2
