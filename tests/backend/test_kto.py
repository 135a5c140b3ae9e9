"""KTO: rows with their mismatched answers, the loss and its baseline from single sequences, and training."""

import json

import numpy as np
import pytest
from once import by_turns, once

from minigpt.data.batches import stacked
from minigpt.data.labelled import OTHER, LabelledRows
from minigpt.data.prepare import prepare
from minigpt.data.shards import MemoryShard
from minigpt.errors import DataError
from minigpt.events import Eval, Step
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.runs.inputs import reader_of
from minigpt.runs.training import prepared, train_stage
from minigpt.sections import ModelConfig
from minigpt.stages.kto import KTOConfig, both_logprobs, evaluate_labelled, settings_of
from minigpt.stages.table import STAGES

MODEL = ModelConfig(n_layer=2, n_head=2, n_kv_head=1, d_model=16, d_ff=24, vocab_size=50, context=24)
ANSWERS = 9


@pytest.fixture
def shard():
    """Nine answers of unequal lengths, some bad."""
    rng, ids, mask, ends = np.random.default_rng(0), [], [], []
    for n in range(ANSWERS):
        prompt, answer = rng.integers(0, 50, rng.integers(1, 9)), rng.integers(0, 50, rng.integers(1, 15))
        ids += [*prompt, *answer]
        mask += [0] * len(prompt) + [1 + n % 2] * len(answer)
        ends.append(len(ids))
    return MemoryShard(np.array(ids, np.int32), np.array(ends), np.array(mask, np.uint8))


def halves(shard, i):
    ids, mask = shard.sequence(i)
    return ids[mask == 0].tolist(), ids[mask != 0].tolist()


def logprob(backend, model, weights, prompt, answer):
    """log p(answer | prompt) of one sequence alone, in NumPy."""
    whole = (prompt + answer)[: MODEL.context + 1]
    logits = backend.numpy(model(weights, backend.array(np.array([whole[:-1]], np.int32))))[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(logs[t, whole[t + 1]] for t in range(len(prompt) - 1, len(whole) - 1))


def plainly(backend, model, weights, shard, rows):
    """{example: (log p of its answer, log p of the mismatched one)}."""
    found = {}
    for i, held in enumerate(rows.rows):
        for k, n in enumerate(held):
            other = held[k - 1] if len(held) > 1 else rows.rows[i - 1][-1]
            prompt, answer = halves(shard, n)
            found[n] = [logprob(backend, model, weights, prompt, one) for one in (answer, halves(shard, other)[1])]
    return found


def test_answers_and_mismatched_answers_are_scored_as_if_alone(backend, shard):
    model, weights = GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))
    rows = LabelledRows(shard, MODEL.context, 1)
    right = plainly(backend, model, weights, shard, rows)
    assert sorted(right) == list(range(ANSWERS)) and any(len(held) > 1 for held in rows.rows)
    batch = stacked([rows.row(0, i) for i in range(rows.count)])
    arrays = {name: backend.array(x) for name, x in batch.items()}
    found = backend.numpy(both_logprobs(model, weights, arrays))
    for i, held in enumerate(rows.rows):
        assert found[i, : len(held)] == pytest.approx(np.array([right[n] for n in held]), abs=1e-4)
        assert batch["labels"][i, : len(held)].tolist() == [n % 2 == 0 for n in held]
        if len(held) > 1:  # the mismatched answers are the very answers of the row
            own, other = (np.sort(batch[name][i]) for name in ("targets", f"{OTHER}targets"))
            assert (own == other).all() or batch["ids"].shape[1] > MODEL.context


def test_the_measured_loss_is_the_papers(backend, shard):
    """Equation 7 in NumPy, with weights, from single sequences; without the baseline it is another number."""
    model, weights = GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))
    rng, config = np.random.default_rng(3), KTOConfig(beta=0.2, desirable_weight=1.3, undesirable_weight=0.7)
    rows = LabelledRows(shard, MODEL.context, 1)
    right = plainly(backend, model, weights, shard, rows)
    policy = np.array([right[n] for n in range(ANSWERS)])
    reference = (policy - rng.normal(1, 2, policy.shape)).astype(np.float32)
    ratios, good = policy - reference, np.arange(ANSWERS) % 2 == 0
    z = max(0.0, ratios[:, 1].mean())
    assert z > 0.1

    def loss(z):
        gain = np.where(good, ratios[:, 0] - z, z - ratios[:, 0])
        return (np.where(good, 1.3, 0.7) * (1 - 1 / (1 + np.exp(-0.2 * gain)))).mean()

    rows = LabelledRows(shard, MODEL.context, 1, reference)
    found = evaluate_labelled(model, weights, rows, config.beta, settings_of(config), 2)
    assert found["loss"] == pytest.approx(loss(z), abs=1e-5) and abs(loss(0) - loss(z)) > 1e-3
    assert found["kl"] == pytest.approx(z, abs=1e-4)
    assert found["margin"] == pytest.approx(0.2 * (ratios[good, 0].mean() - ratios[~good, 0].mean()), abs=1e-4)


SETTINGS = {"steps": 10, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 1, "eval_every": 10, "eval_rows": 64}


@by_turns("adapter", [{}, {"lora_rank": 4, "learning_rate": 3e-2}], ids=["all", "lora"])
def test_training_raises_good_answers_and_lowers_bad_ones(backend, copied, adapter):
    run, events = copied("kto", **SETTINGS | adapter | {"grad_accumulation": 2}), []
    train_stage(run, "kto", backend, events.append)
    steps, evals = ([e for e in events if isinstance(e, kind)] for kind in (Step, Eval))
    assert steps[0].loss == pytest.approx(0.5, abs=1e-6)  # policy and reference are equal: 1 - σ(0)
    assert evals[0].metrics["loss"] == pytest.approx(0.5, abs=1e-5)
    assert steps[0].metrics["kl"] == pytest.approx(0, abs=1e-5) and max(s.metrics["kl"] for s in steps) > 0.01
    assert evals[-1].metrics["margin"] > 0.05 and evals[-1].metrics["loss"] < 0.49


def test_the_baseline_is_one_number_of_the_whole_step(backend, copied):
    run = copied("kto", **SETTINGS)
    weights, objective, *_ = prepared(run, STAGES["kto"], backend, run.config.kto, lambda event: None)
    moved = to_backend(backend, random_weights(run.model_config))
    batch = objective.batches(2, moved)
    assert len(set(batch["baseline"].ravel())) == 1 and not any(name.startswith(OTHER) for name in batch)
    assert all((batch[name] == objective.batches(2, moved)[name]).all() for name in batch)
    assert batch["good"].sum() == pytest.approx(1) and batch["bad"].sum() == pytest.approx(1)


ROWS = [{"prompt": "Hi", "completion": "Hello.", "label": True}, {"prompt": "Hi", "completion": "What?", "label": 0},
        {"instruction": "Sing", "output": "La", "label": False}]  # fmt: skip


def prepared_rows(run, stage, tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    notes = []
    reader = reader_of(run.config, stage, tmp_path, notes.append, train=[str(path)], validation=[str(path)])
    prepare(reader, run.tokenizer, tmp_path / stage, 80, notes.append)
    return notes


@once
def test_pairs_for_kto_and_labels_for_dpo_get_a_sentence(world_run, tmp_path):
    pair = {"prompt": "Hi", "chosen": "Hello.", "rejected": "What?"}
    with pytest.raises(DataError, match="this row is a preference, but kto needs labelled answers") as error:
        prepared_rows(world_run, "kto", tmp_path, [ROWS[0], pair])
    assert '"label": true' in error.value.hint and ":2" in error.value.message
    with pytest.raises(DataError, match="this row is a labelled answer, but dpo needs preference pairs"):
        prepared_rows(world_run, "dpo", tmp_path, [pair, ROWS[0]])
    with pytest.raises(DataError, match="but kto needs labelled answers"):
        prepared_rows(world_run, "kto", tmp_path, [{"prompt": "Hi", "completion": "Hello.", "label": "good"}])


@once
def test_sft_says_that_it_learns_what_is_called_bad(world_run, tmp_path):
    prepared_rows(world_run, "kto", tmp_path, ROWS)
    notes = prepared_rows(world_run, "sft", tmp_path, ROWS)
    assert any("rows have a label, which is not read" in note.text for note in notes if hasattr(note, "text"))
