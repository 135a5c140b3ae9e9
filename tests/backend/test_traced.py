"""What a GPU computes is traced by torch.compile: the whole of it, and the gradients stay the same.

There is no GPU here, so the operations that a GPU is given run on the CPU, traced but not compiled.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from backends import get_backend, tree
from backends.torch.backend import TorchBackend
from minigpt.model.gpt import GPT
from minigpt.parity.models import LOSSES, MODEL_CASES, make_batch, random_weights
from minigpt.sections import TuneConfig
from minigpt.stages.adapter import adapted
from minigpt.train.loop import Objective
from minigpt.train.losses import language_loss

BOTH = "GQA, tied, checkpointing"  # two layers, as skips have; else a second one is traced like the first


def with_one_layer(case):
    return replace(case, config=case.config.model_copy(update={"n_layer": 1}))


# what a trace may stumble over: masks, checkpoints, layers with and without biases, the kinds of positions
CASES = [case if case.name == BOTH or case.config.skips else with_one_layer(case)
         for case in MODEL_CASES if case.checkpointing or case.segments or case.config.qkv_bias]  # fmt: skip
PACKED, PLAIN = with_one_layer(MODEL_CASES[6]), with_one_layer(MODEL_CASES[1])
DROPOUT = {"dropout": np.array([5, -7], np.int32)}


class Traced(TorchBackend):
    """As on a GPU; a part that cannot be traced is an error."""

    def __init__(self):
        super().__init__("gpu")
        self._device = torch.device("cpu")

    def compile(self, fn):
        return torch.compile(fn, backend="aot_eager", fullgraph=True)


@pytest.fixture
def traced():
    """(plain, traced)"""
    torch._dynamo.reset()
    yield get_backend("torch", "cpu"), Traced()
    torch._dynamo.reset()


def gradients(backend, case, loss, extra, dropout):
    model = GPT(case.config, backend, "float32", case.checkpointing, dropout=dropout, stochastic_depth=dropout)
    batch = {key: backend.array(x) for key, x in (make_batch(case.config) | extra).items()}
    if not case.segments and loss is language_loss:
        batch.pop("segments", None)
    weights = tree.map_leaves(backend.array, random_weights(case.config))
    gradient = backend.value_and_grad(lambda w, batch: (loss(model, w, batch), {}), compiled=True)
    (value, _), grads = gradient(weights, batch)
    return float(value), [backend.numpy(g) for g in tree.leaves(grads)]


def check_alike(plain, whole):
    assert whole[0] == pytest.approx(plain[0], rel=1e-6)
    for a, b in zip(plain[1], whole[1], strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max() + 1e-7


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models(traced, case):
    check_alike(*(gradients(backend, case, language_loss, DROPOUT, 0.2) for backend in traced))


def test_answers_that_go_on_from_one_prompt(traced):
    """Positions of all tokens are then given, and no trace can look into them."""
    told = {"follows": [1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3], "positions": [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]}
    extra = {name: np.array([row, row], np.int32) for name, row in told.items()}
    check_alike(*(gradients(backend, PACKED, language_loss, extra, 0.0) for backend in traced))
    apart = gradients(traced[0], PACKED, language_loss, {}, 0.0)
    assert apart[0] != pytest.approx(gradients(traced[0], PACKED, language_loss, extra, 0.0)[0], rel=1e-3)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "language"])
def test_losses_of_preferences(traced, name):
    check_alike(*(gradients(backend, PACKED, LOSSES[name], {}, 0.0) for backend in traced))


def test_an_adapter_with_dropout(traced):
    case, found = PLAIN, []
    config = TuneConfig(lora_rank=2, lora_dropout=0.3, dora=True)
    for backend in traced:
        model = GPT(case.config, backend)
        batch = {key: backend.array(x) for key, x in (make_batch(case.config) | DROPOUT).items()}
        weights = tree.map_leaves(backend.array, random_weights(case.config))
        whole = Objective(lambda w, batch, model=model: (language_loss(model, w, batch), {}), None, None)
        adapter, objective = adapted(backend, case.config, config, weights, 1, whole)
        (value, _), grads = backend.value_and_grad(objective.loss, compiled=True)(adapter, batch, objective.base)
        found.append((float(value), [backend.numpy(g) for g in tree.leaves(grads)]))
    check_alike(*found)


def test_a_part_that_cannot_be_traced_is_found(traced):
    def loss(weights):
        return (weights["w"].sum() if float(weights["w"].sum()) > 0 else weights["w"].sum()), {}

    with pytest.raises(Exception, match="(?i)data-dependent|unsupported|item"):
        traced[1].value_and_grad(loss, compiled=True)({"w": traced[1].array(np.ones(3))})


def test_a_gpu_can_be_told_to_repeat_itself(traced, monkeypatch):
    plain, whole = traced
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    whole.runtime.repeat_exactly(False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ  # with it every product costs the host four times as long
    plain.runtime.repeat_exactly(True)
    assert not torch.are_deterministic_algorithms_enabled()  # CPUs do so anyway
    try:
        whole.runtime.repeat_exactly(True)
        assert torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" in os.environ
    finally:
        whole.runtime.repeat_exactly(False)
    assert not torch.are_deterministic_algorithms_enabled()
