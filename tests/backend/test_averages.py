"""Averages of the weights: by NumPy from the weights of every step, and wherever weights are measured and kept."""

import json

import numpy as np
import pytest
from once import once
from toy import toy_train

from backends.tree import items, leaves
from minigpt.events import silent
from minigpt.model.gpt import to_backend
from minigpt.parity.models import random_weights
from minigpt.runs.training import train_stage
from minigpt.sections import ModelConfig, StageConfig
from minigpt.store.checkpoint import load_checkpoint
from minigpt.train.optim import Optimizer
from minigpt.train.samples import Samples

MODEL = ModelConfig(n_layer=1, n_head=2, n_kv_head=1, d_model=8, d_ff=12, vocab_size=20, context=8)
EMA, SWA = {"ema_decay": 0.3}, {"swa_fraction": 0.5}
EVERY = {"steps": 8, "eval_every": 1, "save_every": 1, "keep_last": 99, "final_fraction": 1.0}


def averages(weights, ema_decay=0.0, swa_fraction=0.0):
    """The averages after each update of the weights [w0, w1, …], of which w0 are those before the first, in float64."""
    found, steps = [weights[0].astype(np.float64)], len(weights) - 1
    first = steps - round(steps * swa_fraction)  # the last update that is not part of the mean
    for step in range(1, steps + 1):
        decay = min(ema_decay, step / (step + 9))
        mean = np.mean(weights[first + 1 : step + 1], axis=0) if step > first else weights[step]
        found.append(decay * found[-1] + (1 - decay) * weights[step] if ema_decay else mean)
    return found[1:]


def kept(store):
    """[(weights, averages or None, state)] of all checkpoints of a toy."""
    found = [load_checkpoint(path) for path in store.checkpoints()]
    return [(trees["weights"]["w"], trees["optim"].get("average.w"), state) for trees, state in found]


def test_the_averages_by_hand():
    w = [np.array(x) for x in (0.0, 1.0, 2.0, 4.0)]
    assert averages(w, ema_decay=0.9) == pytest.approx([0.9, 1.8, 0.25 * 1.8 + 0.75 * 4])  # decays 1/10, 2/11, 3/12
    assert averages(w, ema_decay=0.1) == pytest.approx([0.9, 1.89, 3.789])
    assert averages(w, swa_fraction=2 / 3) == [1, 2, 3]
    assert averages(w, swa_fraction=1.0) == pytest.approx([1, 1.5, 7 / 3])
    assert averages(w, swa_fraction=0.01) == [1, 2, 4]


@pytest.mark.parametrize(("optimizer", "asked"), [("muon", EMA), ("adamw", SWA), ("adamw", {"swa_fraction": 1.0})])
def test_the_averages_of_a_model_are_those_of_its_weights(backend, optimizer, asked):
    """Of every leaf, whatever updates it; without averages the weights have the same bits."""
    rng, start = np.random.default_rng(0), random_weights(MODEL)
    grads = [[rng.standard_normal(w.shape).astype(np.float32) for w in leaves(start)] for _ in range(6)]

    def updated(**settings):
        """[leaves after each update], [averages after each update by name]"""
        weights = to_backend(backend, start)
        config = StageConfig(steps=6, warmup_steps=0, learning_rate=0.1, optimizer=optimizer, **settings)
        updates = Optimizer(backend, config, weights)
        state, found, means = updates.init(weights), [leaves(start)], []
        for step, grad in enumerate(grads):
            weights, state = updates.update(weights, [backend.array(g) for g in grad], state, step)
            found.append([np.array(backend.numpy(w)) for w in leaves(weights)])
            means.append({name: np.array(backend.numpy(x)) for name, x in items(state.get("average", {}))})
        return found, means

    found, means = updated(**asked)
    for i, (name, _) in enumerate(items(start)):
        expected = averages([after[i] for after in found], **asked)
        for mean, right in zip(means, expected, strict=True):
            assert np.abs(mean[name] - right).max() < 1e-6, name
        assert np.abs(found[-1][i] - expected[-1]).max() > 1e-4, f"{name} cannot tell averages from weights"
    plain, none = updated()
    assert none == [{}] * 6
    assert all((a == b).all() for one, other in zip(found, plain, strict=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("settings", [EMA, SWA])
def test_what_is_measured_and_kept_are_the_averages(backend, tmp_path, settings):
    """The journal, the choice of the best step and the final weights; training goes on with the weights."""
    last, store = toy_train(backend, tmp_path, **EVERY | settings)
    plain = kept(toy_train(backend, tmp_path / "plain", **EVERY)[1])
    found = kept(store)
    assert [w for w, _, _ in found] == [w for w, _, _ in plain] and all(mean is None for _, mean, _ in plain)
    assert backend.numpy(last["w"]) == found[-1][0]
    expected = averages([np.zeros(1), *(w for w, _, _ in found)], **settings)
    lines = [json.loads(line) for line in store.journal.read_text("utf-8").splitlines()]
    measured = [line["validation_loss"] for line in lines if "validation_loss" in line][1:]
    for (_, mean, state), right, loss in zip(found, expected, measured, strict=True):
        assert mean == pytest.approx(right, abs=1e-6)
        assert loss == state["metrics"]["loss"] == abs(float(mean[0]) - 3)
    trees, state = load_checkpoint(store.finish("toy"))
    best = int(np.argmin([abs(float(right[0]) - 3) for right in expected]))
    assert state["step"] == best + 1 and trees.keys() == {"weights"}
    assert trees["weights"]["w"] == found[best][1] != found[best][0], "an average, not the weights"


@pytest.mark.parametrize("settings", [EMA, SWA])
def test_averages_begin_and_end_where_the_setting_changes(backend, tmp_path, settings):
    """A checkpoint without averages: they begin with its weights. One with averages: they are dropped again."""
    plain = kept(toy_train(backend, tmp_path / "plain", **EVERY)[1])
    toy_train(backend, tmp_path, **EVERY | {"steps": 3})
    toy_train(backend, tmp_path, **EVERY | settings)
    weights, means, _ = zip(*kept(toy_train(backend, tmp_path, **EVERY | {"steps": 9})[1]), strict=True)
    assert weights[:8] == tuple(w for w, _, _ in plain), "the weights know nothing of it"
    assert [mean is None for mean in means] == [True] * 3 + [False] * 5 + [True]
    if settings == EMA:
        assert means[3] == pytest.approx(0.3 * weights[2] + 0.7 * weights[3], abs=1e-6)
    else:
        assert means[3] == weights[3] and means[5] == pytest.approx((weights[4] + weights[5]) / 2, abs=1e-6)


@once
def test_samples_are_written_with_the_averages(backend, copied, monkeypatch):
    """The continuations that a training shows after its last step are those of the weights that it keeps."""
    used = []
    monkeypatch.setattr(Samples, "take", lambda self, step, weights: used.append(dict(items(weights))))
    run = copied("sft", steps=2, learning_rate=0.1, ema_decay=0.9)
    train_stage(run, "sft", backend, silent)
    trees, state = load_checkpoint(run.store("sft").checkpoints()[-1])
    name = "model.norm.weight"
    assert state["step"] == 2 and (backend.numpy(used[-1][name]) == trees["optim"][f"average.{name}"]).all()
    assert not (trees["weights"][name] == trees["optim"][f"average.{name}"]).all()
