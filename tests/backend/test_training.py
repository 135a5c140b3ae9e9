"""The training loop: it learns, reports, saves, survives a failing evaluation, and may divide a step into parts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from toy import Points, toy_train

from backends import tree
from minigpt.config import build_config
from minigpt.data.batches import Batches, PackedRows, TextRows, normalized, split, stacked
from minigpt.data.shards import Shard, ShardWriter
from minigpt.events import Eval, Saved, Step
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.runs.claim import new_run
from minigpt.runs.pipeline import run_pipeline
from minigpt.sections import ModelConfig, StageConfig
from minigpt.store.checkpoint import load_checkpoint
from minigpt.store.stage import StageStore
from minigpt.train.gradients import accumulated
from minigpt.train.losses import language_loss
from minigpt.train.optim import Optimizer

MODEL = ModelConfig(n_layer=2, n_head=2, n_kv_head=1, d_model=16, d_ff=24, vocab_size=50, context=24)


# ---- learning


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_toy_is_learned(backend, tmp_path, optimizer):
    """The alphabet again and again, in bytes: from about ln 288 nats to almost none, and the model can recite it.

    With an output matrix of its own: tied embeddings start by expecting each token again, a little above ln V.
    """
    (tmp_path / "abc.txt").write_text("abcdefghijklmnopqrstuvwxyz" * 200, "utf-8")
    steps = {"steps": 60, "batch_size": 4, "warmup_steps": 5, "learning_rate": 1e-2, "optimizer": optimizer}
    config = build_config({
        "model": {"n_layer": 1, "n_head": 2, "n_kv_head": 1, "d_model": 32, "d_ff": 48, "context": 32,
                  "tie_embeddings": False},
        "tokenizer": {"kind": "byte"}, "data": {"pretrain": [str(tmp_path / "abc.txt")]}, "pretrain": steps,
    })  # fmt: skip
    events = []
    run = new_run(tmp_path / "run", config)
    run_pipeline(run, backend, events.append, ["pretrain"])
    losses = [event.loss for event in events if isinstance(event, Step)]
    measured = [event.metrics for event in events if isinstance(event, Eval)]
    assert losses[0] == pytest.approx(np.log(288), abs=0.3)
    assert losses[-1] < 0.5
    assert measured[0]["loss"] > 5 and measured[-1]["loss"] < 0.5
    assert measured[-1]["bits_per_byte"] == pytest.approx(measured[-1]["loss"] / np.log(2), rel=0.01)
    engine = Engine(GPT(run.model_config, backend), run.weights("pretrain", backend)[0], run.tokenizer)
    (answer,) = engine.answer([run.tokenizer.encode("uvwx")], GREEDY, 10)
    assert answer.text == "yzabcdefgh"


def test_a_rate_of_zero_changes_nothing(backend, tmp_path):
    """The loss falls because of the updates."""
    weights = toy_train(backend, tmp_path, learning_rate=0.0, steps=3)[0]
    assert backend.numpy(weights["w"]).tolist() == [0.0]


# ---- the loop


def test_what_is_reported_and_kept(backend, tmp_path):
    events = []
    _, store = toy_train(backend, tmp_path, report=events.append)
    assert [event.step for event in events if isinstance(event, Step)] == [1, 2, 3, 4, 5]
    assert [event.step for event in events if isinstance(event, Eval)] == [0, 2, 3, 4, 5]  # and before each save
    assert [event.step for event in events if isinstance(event, Saved)] == [2, 3, 4, 5]  # and each new best
    first = next(event for event in events if isinstance(event, Step))
    x = Batches(Points(), 2, seed=1)(0)["x"]
    assert first.loss == pytest.approx(np.mean((3 * x) ** 2), rel=1e-6)  # w is 0
    assert first.norm == pytest.approx(abs(np.mean(-2 * x * 3 * x)), rel=1e-6)  # before clipping
    assert first.metrics["x"] == pytest.approx(x.mean(), rel=1e-6)
    assert first.learning_rate == 0.5 and first.tokens == 2
    lines = [json.loads(line) for line in store.journal.read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 2, 3, 4, 5]


def test_the_last_step_is_always_logged_and_saved(backend, tmp_path):
    _, store = toy_train(backend, tmp_path, log_every=100, eval_every=100, save_every=100)
    assert [path.name for path in store.checkpoints()] == ["step-000005"]
    assert json.loads(store.journal.read_text("utf-8").splitlines()[1])["step"] == 5


def test_an_evaluation_that_fails_costs_no_training(backend, tmp_path):
    """The known mistake: the checkpoint is written behind an evaluation that crashes."""

    def fails(weights):
        failures.append(1)
        if len(failures) == 3:
            raise RuntimeError("out of memory")
        return {"loss": 100.0}

    failures = []
    with pytest.raises(RuntimeError, match="out of memory"):
        toy_train(backend, tmp_path, fails)
    store = StageStore(tmp_path / "toy")
    assert [path.name for path in store.checkpoints()] == ["step-000002", "step-000003"]  # the best and the last
    weights, _ = toy_train(backend, tmp_path)
    assert backend.numpy(weights["w"]) == backend.numpy(toy_train(backend, tmp_path / "whole")[0]["w"])
    assert store.by_loss()[0].name == "step-000005"  # a step without a measurement is never the best


def test_a_gpu_computes_while_the_next_batch_is_made(backend, tmp_path, monkeypatch):
    told, sync = [], backend.sync if backend.name == "mlx" else lambda *trees: None

    class Told(Batches):
        def __call__(self, step, weights=None):
            told.append(step)
            return super().__call__(step)

    def trained(name):
        told.clear()
        weights, _ = toy_train(backend, tmp_path / name, batches=Told(Points(), 2, seed=1), steps=3, compile=False)
        return float(weights["w"][0])

    on_cpu = trained("cpu")
    assert told == [0, 1, 2]
    monkeypatch.setattr(backend, "device", "gpu")
    monkeypatch.setattr(backend, "sync", lambda *trees: told.append("waits") or sync(*trees))
    assert trained("gpu") == on_cpu
    assert [step for step in told if step != "waits"] == [0, 1, 2]  # none behind the last step
    assert told[:3] == [0, 1, "waits"]


# ---- accumulation


def ragged_batch(tmp_path):
    """Four rows with 1, 3, 6 and 17 answer tokens."""
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "s", 50, masked=True) as writer:
        for answer in (1, 3, 6, 17):
            writer.add(rng.integers(0, 50, 20).tolist(), [0] * (20 - answer) + [1] * answer)
    rows = PackedRows(Shard(tmp_path / "s"), 19, seed=0)
    return stacked([rows.row(0, i) for i in range(4)])


def relative(found, right):
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, right, strict=True))


def test_accumulated_parts_are_the_whole_batch(backend, tmp_path):
    """Loss, metrics and every leaf's gradient; the mean of the parts' means, which others take, is far off."""
    model, weights = GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))
    batch = ragged_batch(tmp_path)

    def loss(weights, batch):
        value = language_loss(model, weights, batch)
        return value, {"twice": 2 * value}

    def at(batch, parts):
        gradient = backend.value_and_grad(loss)
        value, metrics, grads = accumulated(backend, gradient, weights, normalized(batch), parts)
        return [backend.numpy(x) for x in (value, metrics["twice"], *tree.leaves(grads))]

    whole = at(batch, 1)
    assert len(whole) == 2 + len(tree.leaves(weights))
    arrays = {key: backend.array(x) for key, x in normalized(batch).items()}
    (value, metrics), grads = backend.value_and_grad(loss)(weights, arrays)  # in one lane
    assert relative(whole, [backend.numpy(x) for x in (value, metrics["twice"], *tree.leaves(grads))]) < 1e-5
    for parts in (2, 4):
        assert relative(at(batch, parts), whole) < 1e-5
        means = [at(part, 1) for part in split(batch, parts)]
        assert relative([np.mean(x, axis=0) for x in zip(*means, strict=True)], whole) > 0.05


# ---- which update each leaf gets


def optimizer_of(backend, weights, **settings):
    settings = {"steps": 10, "warmup_steps": 0, "learning_rate": 0.01, "matrix_learning_rate": 0.02} | settings
    return Optimizer(backend, StageConfig(**settings), weights)


def first_update(updates, weights, grads):
    grads, norm = updates.clip(grads)
    return updates.update(weights, grads, updates.init(weights), 0)[0], norm


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_matrices_of_the_layers(backend, tied):
    weights = to_backend(backend, random_weights(MODEL.model_copy(update={"tie_embeddings": tied, "qk_norm": True})))
    optimizer = optimizer_of(backend, weights, optimizer="muon")
    matrices = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                "mlp.up_proj", "mlp.down_proj"]  # fmt: skip
    expected = {f"model.layers.{i}.{name}.weight" for i in range(2) for name in matrices}
    assert {optimizer.names[i] for i in optimizer.muon} == expected
    others = {optimizer.names[i] for i in optimizer.adamw}
    assert others == set(tree.names(weights)) - expected
    assert others >= {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.q_norm.weight"}
    assert ("lm_head.weight" in others) == (not tied)
    state = optimizer.init(weights)
    assert state["first"].keys() == set(tree.names(weights)) and state["second"].keys() == others
    assert optimizer_of(backend, weights, optimizer="adamw").muon == []


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_matrices_decay(backend, optimizer):
    """Without a gradient nothing but the decay is left: p (1 - lr · decay) for matrices, p for vectors."""
    start = random_weights(MODEL)
    weights = to_backend(backend, start)
    updates = optimizer_of(backend, weights, optimizer=optimizer, weight_decay=0.5)
    grads = tree.map_leaves(lambda w: backend.zeros(tuple(w.shape)), weights)
    found, norm = first_update(updates, weights, grads)
    assert float(norm) == 0
    for (name, p), w in zip(tree.items(found), tree.leaves(start), strict=True):
        lr = 0.02 if optimizer == "muon" and ".layers." in name and w.ndim == 2 else 0.01
        right = w * (1 - lr * 0.5) if w.ndim == 2 else w
        assert np.abs(backend.numpy(p) - right).max() < 1e-6, name


def test_the_first_step_moves_every_number_by_its_learning_rate(backend):
    """AdamW's first step is lr · sign(gradient); the rate of the schedule, the clipping and the count are in it."""
    weights = {"w": backend.zeros((2, 3)), "b": backend.zeros((3,))}
    updates = optimizer_of(backend, weights, warmup_steps=3, weight_decay=0.0, clip=1e-3)
    grads = {"w": backend.array([[1.0, -2, 3], [4, -5, 6]]), "b": backend.array([7.0, -8, 9])}
    signs = {"w": np.array([[1, -1, 1], [1, -1, 1]]), "b": np.array([1, -1, 1])}
    found, norm = first_update(updates, weights, grads)
    assert float(norm) == pytest.approx(np.sqrt(sum(i * i for i in range(1, 10))), rel=1e-6)
    for name, sign in signs.items():
        assert np.allclose(backend.numpy(found[name]), -0.01 / 4 * sign, rtol=1e-3), name


def test_muon_moves_a_matrix_by_its_own_learning_rate(backend):
    """An orthogonal gradient is its own nearest orthogonal matrix, up to the factors 0.7 … 1.2 of the iteration."""
    weights = {"model": {"layers": [{"w": backend.zeros((4, 4))}]}}
    updates = optimizer_of(backend, weights, optimizer="muon", weight_decay=0.0, momentum=0.9, clip=0.0)
    found, _ = first_update(updates, weights, tree.map_leaves(lambda _: backend.array(np.eye(4) * 5), weights))
    moved = -backend.numpy(tree.leaves(found)[0]) / 0.02
    assert np.abs(moved - np.diag(np.diag(moved))).max() < 1e-6
    assert (np.diag(moved) > 0.6).all() and (np.diag(moved) < 1.3).all()


def test_rows_reach_the_model_as_they_are(backend, tmp_path):
    """language_loss of a batch from the loader against -log softmax in NumPy, token by token."""
    rng = np.random.default_rng(1)
    with ShardWriter(tmp_path / "s", 50, masked=False) as writer:
        writer.add(rng.integers(0, 50, 200).tolist())
    batch = Batches(TextRows(Shard(tmp_path / "s"), 24, seed=1), 3, seed=1)(0)
    model, weights = GPT(MODEL, backend), to_backend(backend, random_weights(MODEL))
    arrays = SimpleNamespace(**{key: backend.array(x) for key, x in batch.items()})
    logits = backend.numpy(model(weights, arrays.ids)).astype(np.float64)  # (3, 24, V)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    right = -np.mean([logprobs[b, t, batch["targets"][b, t]] for b in range(3) for t in range(24)])
    assert float(language_loss(model, weights, vars(arrays))) == pytest.approx(right, rel=1e-5)


def test_a_checkpoint_holds_what_the_loop_returned(backend, tmp_path):
    weights, store = toy_train(backend, tmp_path)
    trees, state = load_checkpoint(store.checkpoints()[-1])
    assert trees["weights"]["w"].tolist() == backend.numpy(weights["w"]).tolist()
    assert trees["optim"].keys() == {"first.w", "second.w"}
    assert state["step"] == 5 and state["metrics"]["loss"] == pytest.approx(abs(trees["weights"]["w"][0] - 3))


# ---- dropout


def test_dropout_reaches_every_block_and_evaluation_has_none(backend):
    """Keys (B,) decide what is dropped, row by row; without keys nothing is."""
    ids = backend.array(np.arange(12, dtype=np.int32).reshape(2, 6))
    flat, rate = dict(tree.items(random_weights(MODEL))), 0.3
    writing = [name for name in flat if name.endswith(("o_proj.weight", "down_proj.weight"))]
    silent = flat | {name: np.zeros_like(flat[name]) for name in writing}  # blocks that add nothing

    def hidden(weights, rate, *keys):
        model = GPT(MODEL, backend, dropout=rate)
        values = backend.array(np.array(keys, np.int32)) if keys else None
        return backend.numpy(model.hidden(to_backend(backend, tree.unflatten(weights)), ids, dropout_keys=values))

    assert np.array_equal(hidden(flat, rate), hidden(flat, 0.0))
    assert np.array_equal(hidden(flat, 0.0, 1, 2), hidden(flat, 0.0))
    first, other = hidden(flat, rate, 1, 2), hidden(flat, rate, 9, 2)
    assert np.array_equal(first[1], other[1]) and not np.allclose(first[0], other[0])
    assert abs((hidden(silent, rate, 5, 6) == 0).mean() - rate) < 0.15  # of the embeddings; 192 draws
    for name in writing:  # where this block's output is dropped as well, the value stays 0
        zero = hidden(silent, rate, 3, 4) == 0
        both = hidden(silent | {name: flat[name]}, rate, 3, 4)[zero] == 0
        assert 0.05 < both.mean() < 0.6, name
