"""Packed rows of sampled answers compute what single ones do: losses and gradients, whatever a model's options are."""

import numpy as np
import pytest

from backends import tree
from minigpt.generate.engine import Answer
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig, RopeScaling
from minigpt.stages.packed import laid_out, once, packed
from minigpt.train.auxiliary import with_auxiliary
from minigpt.train.losses import token_losses
from minigpt.train.policy_losses import PolicySettings, policy_losses, policy_metrics, token_weights

SHAPE = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48, "head_dim": 8, "context": 48,
         "vocab_size": 61}  # fmt: skip
OPTIONS = {
    "rotary": {"qk_norm": True},
    "learned, every second layer full": {"positions": "learned", "sliding_window": 5, "full_attention_every": 2},
    "ALiBi": {"positions": "alibi", "attention_softcap": 5.0},
    "sines, a window with sinks": {
        "positions": "sinusoidal", "embedding_scale": True, "sliding_window": 4, "attention_sinks": 2,
    },
    "NTK, partial rotary": {"rope_fraction": 0.5, "rope_scaling": RopeScaling(kind="ntk", factor=4.0)},
    "a convolution": {"convolution": 3},
    "tokens further ahead": {"predict_ahead": 2},
    "experts": {"experts": 4, "expert_width": 16, "balance_coefficient": 0.5},
}  # fmt: skip


def answers_of(groups=3, together=4):
    draw = np.random.default_rng(7)
    asked = [draw.integers(1, 61, draw.integers(1, 16)).tolist() for _ in range(groups)]
    prompts = [prompt for prompt in asked for _ in range(together)]
    return prompts, [Answer(draw.integers(1, 61, draw.integers(1, 12)).tolist(), "", "stop", 0) for _ in prompts]


def answers_in(batch):
    """(prompt, answer, row, its places there) of each answer in packed rows."""
    for row, (segments, mask) in enumerate(zip(batch["segments"], batch["mask"] > 0, strict=True)):
        for segment in dict.fromkeys(segments[mask].tolist()):
            places = np.flatnonzero((segments == segment) & mask)
            before = segments == segment
            if "follows" in batch:
                before = before | (segments == batch["follows"][row, places[0]])
            before = np.flatnonzero(before & (np.arange(len(segments)) < places[0]))
            prompt = batch["ids"][row, [*before, places[0]]].tolist()
            assert (np.diff(places) == 1).all()
            assert (batch["targets"][row, places[:-1]] == batch["ids"][row, places[1:]]).all()
            yield prompt, batch["targets"][row, places].tolist(), row, places


def log_probabilities(backend, model, weights, prompt, answer, temperature=1.0):
    """Of the answer's tokens, from the bare logits of prompt and answer alone."""
    ids = backend.array(np.array([prompt + answer[:-1]], np.int32))
    logits = backend.numpy(model(weights, ids))[0].astype(np.float64)[len(prompt) - 1 :] / temperature
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logs[np.arange(len(answer)), answer]


def both(backend, loss, batches):
    """[(value, gradients as one vector), …] of the loss on each batch."""
    found = []
    for batch, weights in batches:
        arrays = {name: backend.array(x) for name, x in batch.items()}
        (value, _), grads = backend.value_and_grad(loss)(weights, arrays)
        found.append((float(value), np.concatenate([backend.numpy(x).ravel() for x in tree.leaves(grads)])))
    return found


def check_alike(first, second):
    assert first[0] == pytest.approx(second[0], rel=1e-6, abs=1e-6)
    assert np.abs(first[1] - second[1]).max() <= 1e-6 * max(1.0, np.abs(second[1]).max())
    assert np.abs(second[1]).max() > 1e-3


@pytest.mark.parametrize("option", OPTIONS)
def test_losses_and_gradients_are_those_of_single_rows(backend, option):
    model = GPT(ModelConfig(**SHAPE | OPTIONS[option]), backend)
    weights = to_backend(backend, random_weights(model.config))
    single = laid_out(*answers_of())
    single["weights"] = np.random.default_rng(1).uniform(0.5, 1.5, single["mask"].shape).astype(np.float32)
    single["weights"] *= single["mask"] / single["mask"].sum()
    whole = packed(model, single, together=4).rows(single)
    assert ("follows" in whole) == (option not in ("a convolution", "tokens further ahead", "experts"))
    if model.config.experts:  # whose balance must not see the filling
        single = single | {"segments": np.where(single["targets"] + single["ids"] > 0, 0, -1).astype(np.int32)}

    def loss(weights, batch):
        losses = token_losses(model, weights, batch, batch["mask"] > 0, 0.7)
        return (losses * batch["weights"]).sum(axis=-1).sum(), {}

    found = both(backend, with_auxiliary(model, loss), [(whole, weights), (single, weights)])
    check_alike(*found)


@pytest.mark.parametrize("settings", [
    PolicySettings("grpo", "sequence", 0.01, 0.01, kl="k3", kl_coefficient=0.1),
    PolicySettings("cispo", "token", 0.01, 0.01),
    PolicySettings("dr_grpo", "token", 0.01, 0.01, delta=1.1, kl="k2", kl_coefficient=0.2),
], ids=lambda one: f"{one.loss}, {one.ratio}")  # fmt: skip
def test_policy_losses_of_packed_answers(backend, settings):
    """Ratios of whole answers, too: an answer is a segment, computed once if it was given twice. Some are clipped."""
    model = GPT(ModelConfig(**SHAPE), backend)
    weights = to_backend(backend, random_weights(model.config))
    prompts, answers = answers_of()
    answers[1] = answers[3] = answers[0]  # one answer three times, twice of them with the same advantage
    single, draw = laid_out(prompts, answers), np.random.default_rng(2)
    mask, rows = single["mask"], len(single["mask"])
    single |= {"weights": token_weights(mask, settings.loss, 12), "shares": token_weights(mask, "dapo"),
               "advantages": (draw.normal(size=(rows, 1)) * np.ones(mask.shape)).astype(np.float32)}  # fmt: skip
    single["advantages"][3] = single["advantages"][0]
    arrays = {name: backend.array(x) for name, x in single.items()}
    now = -backend.numpy(token_losses(model, weights, arrays))
    single |= {name: (now + draw.normal(0, 0.1, mask.shape)).astype(np.float32) for name in ("old", "reference")}
    for name in ("old", "reference"):  # are those of the answer
        single[name][1] = single[name][3] = single[name][0]
    fewer = once(single, together=4)
    where = packed(model, fewer, together=4)
    assert sorted(n for held in where.held for n in held) == [0, 1, 2, *range(4, rows)]
    whole, metrics = where.rows(fewer), []

    def loss(weights, batch):
        logprobs, segments = -token_losses(model, weights, batch, batch["mask"] > 0), batch.get("segments")
        given = (batch[name] for name in ("old", "advantages", "mask"))
        losses = policy_losses(backend, logprobs, *given, settings, batch["reference"], segments=segments)
        given = (batch[name] for name in ("old", "advantages", "mask", "shares"))
        return (losses * batch["weights"]).sum(axis=-1).sum(), policy_metrics(
            backend, logprobs, *given, settings, segments)  # fmt: skip

    check_alike(*both(backend, loss, [(whole, weights), (single, weights)]))
    for batch in (whole, single):
        found = loss(weights, {name: backend.array(x) for name, x in batch.items()})[1]
        metrics.append([float(x) for x in found.values()])
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6) and max(metrics[0][1:3]) > 0.05


def test_answers_that_see_each_other_are_found_out(backend):
    """The comparison can fail: one prompt for all, but the answers of a row in one segment; or positions of the row."""
    model = GPT(ModelConfig(**SHAPE), backend)
    weights = to_backend(backend, random_weights(model.config))
    single = laid_out(*answers_of())
    single["weights"] = single["mask"] / single["mask"].sum()
    whole = packed(model, single, together=4).rows(single)
    places = np.broadcast_to(np.arange(whole["ids"].shape[1], dtype=np.int32), whole["ids"].shape)
    for wrong in (whole | {"segments": np.minimum(whole["segments"], 0)}, whole | {"positions": places},
                  whole | {"follows": whole["segments"]}):  # fmt: skip

        def loss(weights, batch):
            return (token_losses(model, weights, batch) * batch["weights"]).sum(axis=-1).sum(), {}

        right, found = both(backend, loss, [(single, weights), (wrong, weights)])
        assert abs(right[0] - found[0]) > 1e-4
