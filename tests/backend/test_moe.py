"""Experts: what the layer computes by hand, what its router learns, what is counted, and how it trains and answers."""

import copy
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from once import once
from pydantic import ValidationError

from backends import tree
from minigpt.errors import UsageError
from minigpt.events import silent
from minigpt.generate.cache import KVCache
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.model.gpt import (
    GPT,
    active_count,
    flops_per_token,
    init_weights,
    parameter_count,
    to_backend,
    weight_shapes,
)
from minigpt.model.grow import grown
from minigpt.model.lora import linear_layers
from minigpt.model.moe import MoE, stacked
from minigpt.model.router import Router, learns_nothing
from minigpt.parity.models import make_batch, random_weights
from minigpt.parity.trajectories import losses_of, tiny_config
from minigpt.plan.speed import _made_up as made_up
from minigpt.plan.speed import _Sizes as Sizes
from minigpt.quantize.codes import quantize_weights
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.sections import ModelConfig
from minigpt.stages.assemble import assembled
from minigpt.stages.stage import Job
from minigpt.stages.table import STAGES
from minigpt.text.characters import CharTokenizer
from minigpt.train.auxiliary import ahead_loss, with_auxiliary
from minigpt.train.gradients import accumulated
from minigpt.train.losses import language_loss

SHAPE = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48, "vocab_size": 61, "context": 16}
IDS = np.random.default_rng(1).integers(0, 61, (2, 14)).astype(np.int32)
BOUND = 2e-5


def shape(**settings):
    return ModelConfig(**SHAPE | {"experts": 4, "expert_width": 32} | settings)


ROUTERS = {
    "softmax": shape(), "top 1": shape(experts_per_token=1), "normalized": shape(normalize_gates=True),
    "sigmoid": shape(router="sigmoid", balance="bias"), "threshold": shape(router="threshold"),
    "shared": shape(shared_experts=2), "further ahead": shape(predict_ahead=2),
    "plain experts": shape(feed_forward="relu2", mlp_bias=True),
}  # fmt: skip


def layer(backend, config):
    """The MoE of the first block and its leaves, as NumPy and of the backend."""
    leaves = random_weights(config)["model"]["layers"][0]["mlp"]
    return MoE(config, backend), leaves, to_backend(backend, leaves)


def silu(x):
    return x / (1 + np.exp(-x))


def by_hand(w, x, k, normalize, score):
    """One token after the other, one expert after the other."""
    y = np.zeros_like(x)
    for place in np.ndindex(x.shape[:2]):
        scores = score(w["gate"]["weight"].astype(np.float64) @ x[place])
        best = np.argsort(-scores)[:k]
        gates = scores[best] / (scores[best].sum() if normalize else 1.0)
        for e, gate in zip(best, gates, strict=True):
            one = w["experts"][e]
            inner = silu(one["gate_proj"]["weight"] @ x[place]) * (one["up_proj"]["weight"] @ x[place])
            y[place] += gate * (one["down_proj"]["weight"] @ inner)
    return y


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


@pytest.mark.parametrize(
    ("settings", "score"),
    [({}, softmax), ({"experts_per_token": 1}, softmax), ({"normalize_gates": True}, softmax),
     ({"router": "sigmoid", "experts_per_token": 3}, lambda x: 1 / (1 + np.exp(-x)))],
)  # fmt: skip
def test_a_token_goes_to_its_best_experts(backend, settings, score):
    config = shape(**settings)
    moe, leaves, weights = layer(backend, config)
    x = np.random.default_rng(2).standard_normal((2, 5, 32)).astype(np.float32)
    expected = by_hand(leaves, x, config.experts_per_token, config.normalize_gates, score)
    for experts in (weights["experts"], stacked(backend, weights["experts"])):
        for place in (np.s_[:, :], np.s_[:1, 2:3]):  # all, and a single token, as of an answer
            found, _ = moe(weights | {"experts": experts}, backend.array(x[place]))
            assert np.abs(backend.numpy(found) - expected[place]).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "plain experts"])
def test_all_ways_to_compute_the_experts_agree(backend, name, monkeypatch):
    """Groups of known sizes; one gathered product; and, where neither is to be had, all experts for all tokens."""
    config = ROUTERS[name]
    weights, ids = to_backend(backend, random_weights(config)), backend.array(IDS)
    usual = backend.numpy(GPT(config, backend)(weights, ids))
    for change in ({"gathers": True}, {"nonzero": lambda mask: None}):
        other = copy.copy(backend)
        for attribute, value in change.items():
            setattr(other, attribute, value)
        assert np.abs(backend.numpy(GPT(config, other)(weights, ids)) - usual).max() < BOUND
        engine = Engine(GPT(config, other), weights, CharTokenizer(""))
        assert np.abs(backend.numpy(engine.model(engine.weights, ids)) - usual).max() < BOUND


@pytest.mark.parametrize("name", ROUTERS)
def test_causal_and_with_the_cache_as_without(backend, name):
    config = ROUTERS[name]
    model, weights = GPT(config, backend), to_backend(backend, random_weights(config))
    whole = backend.numpy(model(weights, backend.array(IDS)))
    changed = IDS.copy()
    changed[:, 9:] = 60 - changed[:, 9:]
    assert np.abs(backend.numpy(model(weights, backend.array(changed)))[:, :9] - whole[:, :9]).max() < BOUND
    for rows, stops in ((2, (5, 6, 14)), (1, (5, *range(6, 15)))):  # one row alone: token by token, as answers are
        cache, found = KVCache(backend, config, rows, 14, "float32"), []
        for start, stop in pairwise((0, *stops)):
            found.append(backend.numpy(model(weights, backend.array(IDS[:rows, start:stop]), cache=cache)))
        assert np.abs(np.concatenate(found, axis=1) - whole[:rows]).max() < BOUND


def test_experts_that_choose_look_ahead_and_so_cannot_write(backend):
    config = shape(router="expert_choice")
    model, weights = GPT(config, backend), to_backend(backend, random_weights(config))
    changed = IDS.copy()
    changed[:, 9:] = 60 - changed[:, 9:]
    found = [backend.numpy(model(weights, backend.array(ids)))[:, :9] for ids in (IDS, changed)]
    assert np.abs(found[0] - found[1]).max() > 0.01  # the comparison above can fail
    with pytest.raises(UsageError, match="not yet written"):
        Engine(model, weights, CharTokenizer(""))
    moe, _, leaves = layer(backend, config)
    route = moe.router(leaves["gate"], backend.array(np.random.default_rng(2).standard_normal((2, 8, 32))), None, True)
    assert (backend.numpy(backend.cast(route.chosen, "int32")).sum(axis=1) == 4).all()  # 8 tokens · 2 / 4 experts


def gradient_of_the_router(backend, config, loss=language_loss):
    model = GPT(config, backend)
    batch = {key: backend.array(x) for key, x in make_batch(config).items()}
    weights = to_backend(backend, random_weights(config))
    grads = backend.value_and_grad(lambda w, b: (loss(model, w, b), {}))(weights, batch)[1]
    return np.abs(backend.numpy(grads["model"]["layers"][0]["mlp"]["gate"]["weight"])).max()


def test_the_language_loss_teaches_the_router_also_with_one_expert_per_token(backend):
    """A gate of 1, which is what normalizing a single one gives, would cut the router off (MiniMind's)."""
    assert gradient_of_the_router(backend, shape(experts_per_token=1)) > 1e-4
    cut = shape(experts_per_token=1, normalize_gates=True)
    assert gradient_of_the_router(backend, cut) < 1e-7 and "learns nothing" in learns_nothing(cut)
    assert learns_nothing(shape(experts_per_token=1)) == learns_nothing(shape(normalize_gates=True)) == ""


def told(backend, config, logits, counted=None):
    """What a router tells of given logits (B, T, E)."""
    router = Router(config, backend)
    logits = np.asarray(logits, np.float32)
    w = {"weight": backend.array(np.eye(config.experts, dtype=np.float32))}
    counted = None if counted is None else backend.array(np.asarray(counted, np.bool_))
    route = router(w, backend.array(logits), counted, True)
    return {name: backend.numpy(x) for name, x in router.told(w, route, counted).items()}, route


def test_the_balance_loss_is_one_where_all_are_equally_busy_and_counts_no_filling(backend):
    config = shape(experts_per_token=2, router_z=0.0, balance_coefficient=1.0)
    even = 5.0 * np.array([[[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0]]])
    figures, _ = told(backend, config, even)
    assert figures["load"] == pytest.approx(np.full((1, 4), 0.25), abs=1e-6)  # sums to 1, not to k = 2
    assert figures["auxiliary"] == pytest.approx([1.0], abs=1e-5)
    one = 20.0 * np.array([[[1, 1, 0, 0]] * 4])  # two experts do all
    assert told(backend, config, one)[0]["auxiliary"] == pytest.approx([2.0], abs=1e-3)
    filled = np.concatenate([even, one], axis=1)
    figures, route = told(backend, config, filled, [[True] * 4 + [False] * 4])
    assert figures["auxiliary"] == pytest.approx([1.0], abs=1e-5)
    assert backend.numpy(route.gates)[0, 4:].max() == 0  # filling takes no expert's time


def test_dropped_tokens_are_counted_and_come_last(backend):
    """Eight pairs, four experts, a factor of 1: each has two places; the third and fourth token of one are dropped."""
    config = shape(experts_per_token=1, capacity_factor=1.0)
    logits = 9.0 * np.eye(4)[[0, 0, 0, 0, 1, 2, 3, 3]][None]
    figures, route = told(backend, config, logits)
    gates = backend.numpy(route.gates)[0]
    assert figures["dropped"] == pytest.approx([2 / 8])
    assert (gates[[0, 1], 0] > 0.9).all() and (gates[[2, 3]] == 0).all()
    assert told(backend, config.model_copy(update={"capacity_factor": 0.0}), logits)[0]["dropped"] == pytest.approx([0])


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "threshold", "further ahead"])
def test_micro_batches_add_up_to_the_whole(backend, name):
    """Loss, metrics and gradients, the auxiliary losses among them, do not depend on how a step is divided."""
    config = ROUTERS[name].model_copy(update={"balance_coefficient": 1.0, "router_z": 0.1, "capacity_factor": 0.0})
    model, batch = GPT(config, backend), make_batch(config)
    batch = {key: batch[key] for key in ("ids", "targets", "weights", "segments")}
    loss = with_auxiliary(model, lambda w, b: (language_loss(model, w, b), {}))
    weights = to_backend(backend, random_weights(config))
    found = [accumulated(backend, backend.value_and_grad(loss), weights, batch, parts) for parts in (1, 2)]
    (value, metrics, grads), (again, others, sums) = found
    assert float(value) == pytest.approx(float(again), rel=1e-5)
    assert metrics.keys() >= {"balance", "router_entropy", "dropped", "expert_0"}
    for name, figure in metrics.items():
        assert float(figure) == pytest.approx(float(others[name]), rel=1e-4, abs=1e-6), name
    for a, b in zip(tree.leaves(grads), tree.leaves(sums), strict=True):
        assert np.abs(backend.numpy(a) - backend.numpy(b)).max() < 1e-5


def sampled(backend, stage, **options):
    """(model, weights, objective, batch) of a stage that samples, on made-up prompts."""
    row, config = STAGES[stage], tiny_config()
    shape, settings = ModelConfig(**config.model.model_dump() | {"vocab_size": 800} | options), config.of(stage)
    model, shard = GPT(shape, backend), made_up(shape, row, 4)
    job = Job(model, to_backend(backend, random_weights(shape)), settings, row.form, shard, shard,
              Sizes(shape.vocab_size), 0, silent)  # fmt: skip
    weights, objective = assembled(backend, model, settings, job.weights, 0, row.objective(job))
    return model, weights, objective, objective.batches(0, weights)


def test_ppo_teaches_the_heads_further_ahead_on_the_policys_trunk_not_on_the_value_models(backend):
    model, weights, objective, batch = sampled(backend, "ppo", predict_ahead=2)
    arrays = {name: backend.array(x) for name, x in batch.items()}
    weights["value"]["model"] = tree.map_leaves(lambda x: 1.5 * x, weights["value"]["model"])  # another trunk
    expected = ahead_loss(model, weights, model.hidden(weights, arrays["ids"]), arrays)
    assert float(objective.loss(weights, arrays)[1]["ahead"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_what_fills_rows_of_sampled_answers_does_not_count_in_the_balance(backend, stage):
    """Other filling: the same loss and figures of the router; without what marks it they would be others."""
    _, weights, objective, batch = sampled(backend, stage, experts=4, expert_width=32, router_z=0.1)
    filling = batch["segments"] < 0
    assert filling.any() and not (filling & (batch["mask"] > 0)).any()
    other = batch | {"ids": np.where(filling, 17, batch["ids"]).astype(np.int32)}

    def found(batch):
        value, metrics = objective.loss(weights, {name: backend.array(x) for name, x in batch.items()})
        return [float(value), *(float(metrics[name]) for name in ("balance", "router_entropy", "expert_0"))]

    assert found(other) == pytest.approx(found(batch), rel=1e-6)
    unmarked = [{name: x for name, x in one.items() if name != "segments"} for one in (batch, other)]
    assert abs(found(unmarked[0])[1] - found(unmarked[1])[1]) > 5e-5


@pytest.mark.parametrize("bits", [4, 8])
def test_experts_in_few_bits_answer_as_their_rounded_floats(backend, bits):
    from minigpt.quantize.codes import dequantize_weights

    config = shape(vocab_size=288)
    packed = quantize_weights(random_weights(config), bits, 32)
    expert = packed["model"]["layers"][0]["mlp"]["experts"][3]["up_proj"]
    assert set(expert) == {"packed", "scales", "biases"} and "weight" in packed["model"]["layers"][0]["mlp"]["gate"]
    floats = dequantize_weights(packed, config)
    for gathers in (False, True):
        own = copy.copy(backend)
        own.gathers = gathers
        engines = [Engine(GPT(config, own), to_backend(own, w), CharTokenizer("")) for w in (packed, floats)]
        found = [own.numpy(e.model(e.weights, own.array(IDS))) for e in engines]
        assert np.abs(found[0] - found[1]).max() < 1e-3
    assert len(engines[0].answer([[5, 9]], GREEDY, 4)[0].ids) <= 4


def test_counts_of_all_and_of_active_parameters_and_of_arithmetic():
    """Two of four experts of 32 have the arithmetic of a dense layer of 64, but for the router's."""
    config, dense = shape(), ModelConfig(**SHAPE | {"d_ff": 64})
    one = 3 * 32 * 32
    assert parameter_count(config) - active_count(config) == 2 * 2 * one  # layers · idle experts
    assert active_count(config) == parameter_count(dense) + 2 * 4 * 32  # and the router
    assert flops_per_token(config, 16) - flops_per_token(dense, 16) == 6 * 2 * 4 * 32
    assert "model.layers.0.mlp.gate" not in linear_layers(config)
    assert "model.layers.1.mlp.experts.3.down_proj" in linear_layers(config)


def test_experts_made_of_a_dense_model_first_compute_what_it_did(backend):
    """Normalized gates of equal experts sum to 1. Only the routers are new; what has no place is refused."""
    dense = ModelConfig(**SHAPE)
    weights, config = random_weights(dense), shape(normalize_gates=True, expert_width=48)
    found = grown(weights, config, 1, "RUN")
    logits = [backend.numpy(GPT(c, backend)(to_backend(backend, w), backend.array(IDS)))
              for c, w in ((dense, weights), (config, found))]  # fmt: skip
    assert np.abs(logits[0] - logits[1]).max() < BOUND
    new = set(tree.names(found)) - set(tree.names(weights))
    assert {name for name in new if ".experts." not in name} == {f"model.layers.{i}.mlp.gate.weight" for i in (0, 1)}
    with pytest.raises(UsageError, match="RUN has model.layers.0.mlp.gate.weight"):
        grown(found, dense, 1, "RUN")
    with pytest.raises(UsageError, match="gate_proj.weight has the shape"):
        grown(weights, shape(), 1, "RUN")  # experts of width 32 in place of 48


def test_a_longer_table_of_positions_is_spread_over_the_old_one():
    learned = {"positions": "learned", "n_layer": 1}
    old = random_weights(ModelConfig(**SHAPE | learned))
    found = grown(old, ModelConfig(**SHAPE | learned | {"context": 31}), 1, "RUN")
    table, before = (w["model"]["embed_positions"]["weight"] for w in (found, old))
    assert np.allclose(table[::2], before, atol=1e-6)
    assert np.allclose(table[1], (before[0] + before[1]) / 2, atol=1e-6)


def test_thresholds_begin_where_tokens_have_k_experts_on_average(backend):
    config = shape(router="threshold", experts=8, d_model=64)
    moe = MoE(config, backend)
    weights = to_backend(backend, init_weights(config, 1))["model"]["layers"][0]["mlp"]
    x = backend.array(np.random.default_rng(3).standard_normal((4, 50, 64)).astype(np.float32))
    chosen = backend.numpy(backend.cast(moe.router(weights["gate"], x, None, False).chosen, "int32"))
    assert 1.5 < chosen.sum(axis=-1).mean() < 2.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"experts_per_token": 5}, "more than experts = 4"),
        ({"router": "threshold", "capacity_factor": 1.0}, "choose one"),
        ({"router": "expert_choice", "balance": "bias"}, "does nothing"),
        ({"router": "threshold", "normalize_gates": True}, "fixed number"),
        ({"experts": 0, "shared_experts": 1}, "set d_ff instead"),
    ],
)
def test_senseless_experts_are_refused_with_the_reason(settings, words):
    with pytest.raises(ValidationError, match=words):
        shape(**settings)


def test_every_expert_has_leaves_of_its_own_by_hugging_faces_names():
    names = weight_shapes(shape(balance="bias"))
    assert names["model.layers.1.mlp.experts.3.gate_proj.weight"] == (32, 32)
    assert names["model.layers.0.mlp.gate.weight"] == (4, 32)
    assert names["model.layers.0.mlp.gate.e_score_correction_bias"] == (4,)


def with_experts(run, name, **stage):
    """The run with a mixture in place of its model."""
    model = run.config.model.model_copy(update={"experts": 4, "expert_width": 32, "predict_ahead": 1})
    return Run(run.directory, run.config.model_copy(update={"model": model})).with_section(name, **stage)


@once
def test_training_resumes_to_the_bit_and_tells_the_loads(backend, copied):
    settings = {"steps": 4, "save_every": 2, "batch_size": 2}
    whole, parts = (with_experts(copied("pretrain", name), "pretrain", **settings) for name in ("whole", "parts"))
    expected = losses_of(whole, "pretrain", backend)
    assert losses_of(parts, "pretrain", backend, stop_after=2) + losses_of(parts, "pretrain", backend) == expected
    for a, b in zip(*(tree.leaves(run.weights("pretrain")[0]) for run in (whole, parts)), strict=True):
        assert (a == b).all()
    lines = (whole.store("pretrain").directory / "metrics.jsonl").read_text().splitlines()
    told = next(line for line in map(json.loads, lines) if "expert_0" in line)
    assert sum(told[f"expert_{e}"] for e in range(4)) == pytest.approx(1.0, abs=1e-5) and told["ahead"] > 0


def test_adapters_of_experts_train_whatever_a_step_is_divided_in(backend, copied):
    """LoRA with dropout: its masks follow a token to its expert and into its micro-batch."""
    run = with_experts(copied("pretrain"), "pretrain", steps=1, batch_size=2)
    train_stage(run, "pretrain", backend, silent)
    losses = []
    for parts in (1, 2):
        shutil.rmtree(run.store("sft").directory, ignore_errors=True)
        lora = {"lora_rank": 2, "lora_dropout": 0.3, "learning_rate": 0.02, "grad_accumulation": parts}
        losses.append(losses_of(run.with_section("sft", steps=3, batch_size=2, **lora), "sft", backend))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and losses[0][2] != losses[0][0]
