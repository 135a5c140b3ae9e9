"""DPO: the reference's log-probabilities, the first loss in closed form, and that training leaves it."""

import math

import numpy as np
import pytest
from once import by_turns

from minigpt.data.batches import PairRows
from minigpt.data.shards import Shard, ShardWriter
from minigpt.events import Eval, Step, silent
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.runs.training import train_stage
from minigpt.sections import ModelConfig
from minigpt.stages.dpo import DPOConfig, reference_logprobs
from minigpt.store.checkpoint import save_checkpoint
from minigpt.train.measure import evaluate_preferences
from minigpt.train.preferences import PreferenceSettings

MODEL = ModelConfig(n_layer=2, n_head=2, n_kv_head=1, d_model=16, d_ff=24, vocab_size=50, context=24)
CONFIG = DPOConfig(batch_size=4, accumulation=2)
SIZE = CONFIG.micro_batch_size
PAIRS = 11


@pytest.fixture
def sequences(tmp_path):
    """(ids, mask) of chosen 0, rejected 0, chosen 1, …, all of unequal lengths; and their shard in tmp_path."""
    rng, found = np.random.default_rng(0), []
    with ShardWriter(tmp_path / "pairs", 50, masked=True) as writer:
        for _ in range(PAIRS):
            prompt = rng.integers(0, 50, rng.integers(1, 9)).tolist()
            for _ in range(2):
                answer = rng.integers(0, 50, rng.integers(1, 15)).tolist()
                found.append((prompt + answer, [0] * len(prompt) + [1] * len(answer)))
                writer.add(*found[-1])
    return found


def pair_rows(tmp_path, reference=None):
    return PairRows(Shard(tmp_path / "pairs"), MODEL.context, seed=1, reference=reference)


def one_by_one(backend, model, weights, sequences):
    """(pairs, 2): log p(answer | prompt) of each sequence alone, summed in NumPy over the answer's tokens."""
    sums = []
    for ids, mask in sequences:
        logits = backend.numpy(model(weights, backend.array(np.array([ids[:-1]], np.int32))))[0].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        sums.append(sum(logprobs[t, ids[t + 1]] for t in range(len(ids) - 1) if mask[t + 1]))
    return np.array(sums).reshape(-1, 2)


# ---- the reference


def test_reference_logprobs_are_those_of_each_sequence_alone(backend, tmp_path, sequences):
    """Packed several to a row, in batches whose last is smaller, against one sequence at a time; sums, not means."""
    model, weights = GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))
    rows = pair_rows(tmp_path)
    assert rows.count % 2 == 1 and rows.most > 1
    found = reference_logprobs(model, weights, rows, tmp_path / "reference", SIZE, silent)
    right = one_by_one(backend, model, weights, sequences)
    assert found.shape == (PAIRS, 2) and found.dtype == np.float32
    assert np.abs(found - right).max() < 1e-4
    lengths = np.array([sum(mask) for _, mask in sequences]).reshape(-1, 2)
    assert np.abs(found - right / lengths).max() > 10  # the known mistake would be far off
    assert np.abs(found - right[:, ::-1]).max() > 10  # and so would the sides in the wrong order


def test_neighbours_in_a_row_do_not_matter_because_of_the_segments(backend, tmp_path, sequences, monkeypatch):
    """The comparison can fail: without the mask between segments it does."""
    model, weights = GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))
    visible = backend.visible
    monkeypatch.setattr(backend, "visible", lambda *sizes, **_: visible(*sizes))
    found = reference_logprobs(model, weights, pair_rows(tmp_path), tmp_path / "reference", SIZE, silent)
    assert np.abs(found - one_by_one(backend, model, weights, sequences)).max() > 1


def test_the_reference_is_computed_once(backend, tmp_path, sequences):
    """A resumed run has other weights, but the same reference; damage is seen."""
    model, path = GPT(MODEL, backend), tmp_path / "deep" / "reference"
    rows = pair_rows(tmp_path)
    first = reference_logprobs(model, to_backend(backend, random_weights(MODEL)), rows, path, SIZE, silent)
    moved = to_backend(backend, random_weights(MODEL, seed=4))
    assert (reference_logprobs(model, moved, rows, path, SIZE, silent) == first).all()
    save_checkpoint(path, {"reference": {"logprobs": first[:-1]}}, {"pairs": PAIRS - 1})  # of other data
    assert not np.allclose(reference_logprobs(model, moved, rows, path, SIZE, silent), first)
    file = path / "reference.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    notes = []
    again = reference_logprobs(model, to_backend(backend, random_weights(MODEL)), rows, path, SIZE, notes.append)
    assert (again == first).all() and "damaged" in notes[0].text
    assert [file.name for file in path.parent.iterdir()] == ["reference"]


def test_a_reference_of_other_starting_weights_is_not_used(backend, tmp_path, sequences):
    """SFT was trained again before DPO began: its fingerprint is another."""
    model, rows, path = GPT(MODEL, backend), pair_rows(tmp_path), tmp_path / "reference"
    old, new = (to_backend(backend, random_weights(MODEL, seed=seed)) for seed in (1, 4))
    first = reference_logprobs(model, old, rows, path, SIZE, silent, "old")
    assert (reference_logprobs(model, new, rows, path, SIZE, silent, "old") == first).all()
    assert not np.allclose(reference_logprobs(model, new, rows, path, SIZE, silent, "new"), first)


# ---- the loss


def events_of(run, backend):
    events = []
    train_stage(run, "dpo", backend, events.append)
    return [e for e in events if isinstance(e, Step)], [e for e in events if isinstance(e, Eval)]


@by_turns(
    "loss,beta,first",
    [("sigmoid", 0.1, math.log(2)), ("sigmoid", 0.5, math.log(2)), ("ipo", 0.1, 25.0), ("ipo", 0.5, 1.0),
     ("apo_zero", 0.1, 1.0)],
)  # fmt: skip
def test_at_the_start_policy_and_reference_are_equal(backend, copied, loss, beta, first):
    """A margin of 0: -log σ(0) = ln 2, and (0 - 1/2β)² = 1/4β²."""
    steps, evals = events_of(copied("dpo", steps=1, loss=loss, beta=beta, grad_accumulation=2), backend)
    assert steps[0].loss == pytest.approx(first, abs=1e-6 if loss == "sigmoid" else 1e-4)
    assert evals[0].step == 0 and evals[0].metrics["loss"] == pytest.approx(steps[0].loss, abs=1e-4)
    for name in ("margin", "reward_chosen", "reward_rejected"):
        assert steps[0].metrics[name] == pytest.approx(0, abs=1e-5)


@by_turns("loss,rate", [("sigmoid", 3e-3), ("hinge", 3e-3), ("ipo", 1e-2), ("sigmoid", 3e-3)])
def test_training_leaves_the_first_loss(backend, copied, loss, rate):
    """The known mistake is a rate so low that the loss stays at 0.693; margin and accuracy rise as it falls.

    IPO's target is 5 nats per token, hence its rate.
    """
    settings = {"steps": 8, "learning_rate": rate, "loss": loss, "batch_size": 4, "eval_every": 8, "eval_rows": 64}
    steps, evals = events_of(copied("dpo", **settings), backend)
    assert steps[-1].loss < 0.8 * steps[0].loss
    last = steps[-1].metrics
    assert last["accuracy"] > 0.8 and last["margin"] > 0.1
    assert last["margin"] == pytest.approx(last["reward_chosen"] - last["reward_rejected"], abs=1e-4)
    assert evals[-1].metrics.keys() >= {"loss", "accuracy", "margin", "reward_chosen", "reward_rejected"}


@by_turns("loss,beta", [("simpo", 2.0), ("orpo", 0.5)])
def test_a_loss_without_reference_reads_none(backend, copied, loss, beta):
    """The margin that is measured is that of the bare log-probabilities; nothing is read or kept beforehand."""
    settings = {"steps": 8, "learning_rate": 1e-2, "eval_every": 8, "eval_rows": 64, "batch_size": 4}
    run = copied("dpo", loss=loss, beta=beta, **settings)
    steps, evals = events_of(run, backend)
    assert not list(run.store("dpo").directory.glob("reference_*"))
    assert evals[0].metrics["reward_chosen"] < -1  # β log π of a whole answer, not of a ratio near 1
    assert steps[-1].loss < 0.95 * steps[0].loss


@pytest.mark.parametrize("loss", ["cdpo", "robust"])
def test_label_smoothing_is_part_of_the_loss(backend, tmp_path, sequences, loss):
    """From the sums of each sequence alone, ε = 0.2."""
    model, weights = GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))
    policy = one_by_one(backend, model, weights, sequences)
    reference = np.random.default_rng(5).normal(policy, 3).astype(np.float32)
    margin = 0.1 * ((policy - reference)[:, 0] - (policy - reference)[:, 1])
    right, wrong = np.log1p(np.exp(-margin)), np.log1p(np.exp(margin))
    expected = 0.8 * right + 0.2 * wrong if loss == "cdpo" else (0.8 * right - 0.2 * wrong) / 0.6
    found = evaluate_preferences(
        model, weights, pair_rows(tmp_path, reference), loss, PreferenceSettings(label_smoothing=0.2), batch_size=2
    )
    assert found["loss"] == pytest.approx(expected.mean(), rel=1e-4)


def test_measured_preferences_in_plain_sight(backend, tmp_path, sequences):
    """Loss, rewards and accuracy over all pairs, from the sums of each sequence alone."""
    model, weights = GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))
    policy = one_by_one(backend, model, weights, sequences)
    reference = np.random.default_rng(5).normal(policy, 3).astype(np.float32)
    rewards = 0.1 * (policy - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    rows, settings = pair_rows(tmp_path, reference), PreferenceSettings()
    found = evaluate_preferences(model, weights, rows, "sigmoid", settings, batch_size=2)
    assert found["pairs"] == PAIRS
    assert 0 < found["accuracy"] < 1 and found["accuracy"] == pytest.approx(np.mean(margin > 0))
    assert found["loss"] == pytest.approx(np.mean(np.log1p(np.exp(-margin))), rel=1e-4)
    assert found["margin"] == pytest.approx(margin.mean(), abs=1e-4)
    assert found["reward_chosen"] == pytest.approx(rewards[:, 0].mean(), abs=1e-4)
    ipo = evaluate_preferences(model, weights, rows, "ipo", settings, batch_size=3)
    lengths = np.array([sum(mask) for _, mask in sequences]).reshape(-1, 2)
    per_token = (policy - reference) / lengths
    assert ipo["loss"] == pytest.approx(np.mean((per_token[:, 0] - per_token[:, 1] - 5) ** 2), rel=1e-4)
    assert ipo["loss"] != pytest.approx(np.mean((margin / 0.1 - 5) ** 2), rel=1e-2)  # sums are another loss
