"""Cross-entropy in chunks: the loss and the gradients of the whole, in a part of its memory."""

from pathlib import Path

import numpy as np
import pytest

import minigpt.train.losses
from backends import tree
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import MODEL_CASES, make_batch, random_weights
from minigpt.train.losses import language_loss, sequence_logprobs
from minigpt.train.preferences import PreferenceSettings, preference_losses


def preference_loss(model, weights, batch):
    policy = sequence_logprobs(model, weights, batch)
    reference, settings = batch["reference"], PreferenceSettings()
    losses = preference_losses(model.backend, policy, reference, "sigmoid", settings, batch["spans"])
    return (losses * batch["pairs"]).sum()


def computed(backend, config, loss, chunk):
    """(loss, {leaf: gradient}) on two rows of twelve tokens."""
    model = GPT(config, backend, loss_chunk=chunk)
    weights = to_backend(backend, random_weights(config))
    batch = {key: backend.array(x) for key, x in make_batch(config).items()}
    (value, _), grads = backend.value_and_grad(lambda w, x: (loss(model, w, x), {}))(weights, batch)
    return float(value), {name: backend.numpy(g) for name, g in tree.items(grads)}


@pytest.mark.parametrize("loss", [language_loss, preference_loss])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, 24, 1000])  # of 24 tokens
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(backend, loss, tied, chunk):
    config = MODEL_CASES[0].config.model_copy(update={"tie_embeddings": tied})
    whole, whole_grads = computed(backend, config, loss, 0)
    value, grads = computed(backend, config, loss, chunk)
    assert value == pytest.approx(whole, abs=1e-6)
    assert grads.keys() == whole_grads.keys() and ("lm_head.weight" in grads) == (not tied)
    for name, right in whole_grads.items():
        assert np.abs(right).max() > 0, name
        assert np.allclose(grads[name], right, atol=1e-5 * np.abs(right).max()), name


@pytest.mark.parametrize("chunk", [0, 7])
@pytest.mark.parametrize(("loss", "alike", "tokens"), [
    (language_loss, 1, 14), (language_loss, 5, 15), (language_loss, 24, 24), (preference_loss, 1, 16),
    (preference_loss, 9, 18),
])  # fmt: skip
def test_logits_are_computed_for_tokens_that_count_only(backend, monkeypatch, loss, alike, tokens, chunk):
    """Loss and gradients are those of the whole; the output layer sees the answers, 16 of 24 tokens, or 14 of them,
    filled up to a multiple of `alike`.
    """
    monkeypatch.setattr("minigpt.train.losses.ALIKE", alike)
    seen, losses = [], minigpt.train.losses.losses_of_hidden

    def watched(model, weights, hidden, targets, *temperature):
        seen.append(hidden.shape[0] * hidden.shape[1])
        return losses(model, weights, hidden, targets, *temperature)

    monkeypatch.setattr("minigpt.train.losses.losses_of_hidden", watched)
    value, grads = computed(backend, MODEL_CASES[0].config, loss, chunk)
    monkeypatch.setattr(backend, "nonzero", lambda mask: None)
    whole, whole_grads = computed(backend, MODEL_CASES[0].config, loss, chunk)
    assert seen == [tokens, 24]
    assert value == pytest.approx(whole, abs=1e-6)
    for name, right in whole_grads.items():
        assert np.allclose(grads[name], right, atol=1e-5 * np.abs(right).max()), name


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell a peak twice")
def test_chunks_need_a_part_of_the_memory(backend):
    """The logits of 4,096 tokens and 8,000 words are 131 MB, and the whole needs them twice at least."""
    draw = np.random.default_rng(0)
    weights = {"x": backend.array(draw.normal(size=(4096, 64)).astype(np.float32)),
               "w": backend.array(draw.normal(size=(8000, 64)).astype(np.float32))}  # fmt: skip
    targets = backend.array(draw.integers(0, 8000, 4096))

    def whole(leaves):
        return backend.token_nll(backend.linear(leaves["x"], leaves["w"]), targets).sum(), {}

    def chunked(leaves):
        return backend.chunked_nll(leaves["x"], leaves["w"], targets, 256).sum(), {}

    chunks, all_at_once = (peak(backend, fn, weights) for fn in (chunked, whole))
    assert all_at_once > 250e6, all_at_once
    assert chunks < 0.5 * all_at_once, (chunks, all_at_once)


def peak(backend, fn, weights):
    """Bytes by which a gradient raises the resident memory of this process at most."""
    backend.runtime.clear_cache()
    backend.sync(weights)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins again
    backend.sync(backend.value_and_grad(fn)(weights))
    marks = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(marks[0].split()[1]) * 1024 - before
