"""Adapters in training: the formula against NumPy, what stays frozen, DPO's reference, merging, resuming, dropout."""

import json
import math
import shutil

import numpy as np
import pytest
from once import by_turns, once

from backends.tree import items, map_leaves, unflatten
from minigpt.data.batches import PackedRows
from minigpt.errors import CheckpointError, UsageError
from minigpt.events import Eval, Step, silent
from minigpt.model.gpt import GPT, to_backend
from minigpt.model.linear import dropout, linear
from minigpt.model.lora import init_adapter, join, layer_at, lora_shapes, merge, scales
from minigpt.parity.models import random_weights
from minigpt.parity.trajectories import losses_of
from minigpt.quantize.codes import dequantize_weights, quantize_weights
from minigpt.runs.pipeline import run_pipeline
from minigpt.runs.training import train_stage
from minigpt.sections import ModelConfig, TuneConfig
from minigpt.store.checkpoint import load_checkpoint
from minigpt.store.stage import averaged
from minigpt.train.measure import evaluate_language

MODEL = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=48, vocab_size=50, context=24)
LORA = {"lora_rank": 4, "lora_dropout": 0.2, "learning_rate": 5e-3}
RNG = np.random.default_rng(0)


def weight_in(base):
    return lambda layer: layer_at(base, layer)["weight"]


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def random_adapter(base, **settings):
    """An adapter that changes something: B is not 0, a magnitude not its row's norm."""
    adapter = init_adapter(weight_in(base), lora_shapes(MODEL, TuneConfig(lora_rank=4, **settings)), seed=2)
    return join(map_leaves(lambda x: x + 0.1 * normal(*x.shape), adapter), scales(adapter, 1.5))


# ---- one layer


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_the_formula(backend, biased, dora):
    """W x + s B A x, or m / ‖W + s B A‖ times that, plus the bias; computed here in float64."""
    w = {"weight": normal(6, 8), "lora_a": normal(3, 8), "lora_b": normal(6, 3), "lora_scale": np.float32(0.7)}
    w |= {"bias": normal(6)} if biased else {}
    w |= {"lora_magnitude": np.abs(normal(6))} if dora else {}
    x = normal(2, 5, 8)
    whole = w["weight"].astype(np.float64) + 0.7 * (w["lora_b"].astype(np.float64) @ w["lora_a"])
    if dora:
        whole *= (w["lora_magnitude"] / np.sqrt((whole**2).sum(axis=1)))[:, None]
    expected = x @ whole.T + w.get("bias", 0)
    found = backend.numpy(linear(backend, to_backend(backend, w), backend.array(x)))
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found - (x @ w["weight"].T + w.get("bias", 0))).max() > 0.1  # it does something


def test_dropout_is_a_function_of_key_and_place(backend):
    x = np.ones((3, 40, 64), np.float32)
    keys = np.array([5, 4, 5 - 2**31], np.int32)  # one bit apart
    rate = backend.array(np.float32(0.25))
    found = backend.numpy(dropout(backend, backend.array(x), backend.array(keys), rate))
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.75)}
    assert np.abs((found == 0).mean(axis=(1, 2)) - 0.25).max() < 0.025  # four deviations of 2,560 draws
    alone = backend.numpy(dropout(backend, backend.array(x[1:2]), backend.array(keys[1:2]), rate))
    assert (alone[0] == found[1]).all()  # whatever other rows are computed with it
    for a, b in ((0, 1), (1, 2)):
        both = (found[a] == 0) & (found[b] == 0)
        assert abs(both.mean() - 0.25**2) < 0.02  # rows are independent of each other
    column = (found[0] == 0).mean(axis=0)
    assert column.std() < 2 * (0.25 * 0.75 / 40) ** 0.5  # and places of each other


# ---- the whole model


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"lora_targets": ["q_proj", "down_proj"]}])
def test_merged_and_unmerged_logits_agree(backend, settings):
    base = random_weights(MODEL)
    tree = join(base, random_adapter(base, **settings))
    model = GPT(MODEL, backend)
    ids = backend.array(RNG.integers(0, 50, (2, 9)).astype(np.int32))
    apart = backend.numpy(model(to_backend(backend, tree), ids))
    merged = backend.numpy(model(to_backend(backend, merge(tree)), ids))
    assert np.abs(merged - apart).max() < 1e-5
    assert np.abs(backend.numpy(model(to_backend(backend, base), ids)) - apart).max() > 0.01


# ---- a stage


@pytest.mark.parametrize(
    "settings", [{"ema_decay": 0.9}, {"dora": True, "activation_checkpointing": True, "grad_accumulation": 2}]
)
def test_a_stage_trains_its_adapter_and_nothing_else(backend, copied, settings):
    run = copied("sft", **LORA | settings | {"steps": 3, "save_every": 3})
    base = dict(items(run.weights("pretrain")[0]))
    train_stage(run, "sft", backend, silent)
    trees, state = load_checkpoint(run.store("sft").checkpoints()[-1])
    kinds = {"lora_a", "lora_b"} | ({"lora_magnitude"} if "dora" in settings else set())
    assert {name.rpartition(".")[2] for name in trees["weights"]} == kinds
    assert {name.split(".", 1)[1] for name in trees["optim"]} == set(trees["weights"])  # no moments for the base
    assert state["base"] == run.fingerprint("pretrain")
    final, _ = load_checkpoint(run.store("sft").final)
    layer = "model.layers.0.self_attn.q_proj"
    a, b = (final["adapter"][f"{layer}.lora_{x}"].astype(np.float64) for x in "ab")
    assert final["adapter"][f"{layer}.lora_scale"] == 4.0  # alpha 16 / rank 4
    assert np.abs(b).max() > 0 and (b == averaged(trees["weights"], trees["optim"])[f"{layer}.lora_b"]).all()
    assert (b == trees["weights"][f"{layer}.lora_b"]).all() == ("ema_decay" not in settings)
    if "dora" not in settings:
        assert np.allclose(final["weights"][f"{layer}.weight"], base[f"{layer}.weight"] + 4 * b @ a, atol=1e-6)
    untouched = "model.embed_tokens.weight"
    assert (final["weights"][untouched] == base[untouched]).all()


def test_the_loss_falls(backend, copied):
    way = LORA | {"steps": 16, "lora_dropout": 0.05, "learning_rate": 2e-2}
    losses = losses_of(copied("sft", **way), "sft", backend)
    assert sum(losses[-4:]) < sum(losses[:4]) - 1.0


@by_turns("dora", [False, True])
def test_the_reference_of_dpo_is_the_tree_without_the_leaves(backend, copied, dora):
    """The stored log-probabilities are the base's, and the first loss is ln 2: the new leaves change nothing."""
    found = {}
    for name, settings in (("full", {}), ("adapter", LORA | {"dora": dora, "lora_dropout": 0.0})):
        run = copied("dpo", name, **settings | {"steps": 6, "save_every": 6})
        events = []
        train_stage(run, "dpo", backend, events.append)
        first = next(e.loss for e in events if isinstance(e, Step))
        assert first == pytest.approx(math.log(2), abs=1e-6)
        start = next(e for e in events if isinstance(e, Eval)).metrics
        assert start["reward_chosen"] == pytest.approx(0, abs=1e-5)
        stored = load_checkpoint(run.store("dpo").directory / "reference_train")[0]["reference"]["logprobs"]
        found[name] = stored, [e.loss for e in events if isinstance(e, Step)][-1]
    assert (found["full"][0] == found["adapter"][0]).all()
    assert found["adapter"][1] < math.log(2) - 0.002


@once
def test_dpo_starts_from_the_merged_weights_of_an_sft_adapter(backend, copied):
    run = copied("sft", **LORA | {"steps": 2, "save_every": 2})
    train_stage(run, "sft", backend, silent)
    run = run.with_section("dpo", lora_rank=2, steps=2, save_every=2, learning_rate=1e-2)
    train_stage(run, "dpo", backend, silent)
    before, after = (dict(items(run.weights(stage)[0])) for stage in ("sft", "dpo"))
    adapter = load_checkpoint(run.store("dpo").final)[0]["adapter"]
    layer = "model.layers.1.mlp.up_proj"
    change = 8 * adapter[f"{layer}.lora_b"] @ adapter[f"{layer}.lora_a"]
    assert np.abs(change).max() > 1e-4
    assert np.allclose(after[f"{layer}.weight"], before[f"{layer}.weight"] + change, atol=1e-6)


# ---- over quantized weights


@by_turns("bits,dora", [(4, False), (4, True), (8, False), (4, False)])
def test_qlora_trains_over_quantized_weights(backend, copied, bits, dora):
    """The final model is exactly what was trained: the quantized base in floats plus the adapter's product."""
    way = LORA | {"lora_dropout": 0.0, "lora_bits": bits, "dora": dora, "learning_rate": 2e-2, "eval_rows": 64}
    run = copied("sft", **way | {"steps": 16, "save_every": 16, "eval_every": 16})
    events = []
    train_stage(run, "sft", backend, events.append)
    losses = [e.loss for e in events if isinstance(e, Step)]
    assert sum(losses[-4:]) < sum(losses[:4]) - 1.0
    final, state = load_checkpoint(run.store("sft").final)
    pretrained = run.weights("pretrain")[0]
    rounded = dequantize_weights(quantize_weights(pretrained, bits), run.model_config)
    expected = merge(join(rounded, unflatten(final["adapter"])))
    for name, leaf in items(expected):
        assert np.abs(final["weights"][name] - leaf).max() < 1e-6, name
    layer = "model.layers.0.mlp.gate_proj.weight"
    gap = np.abs(dict(items(rounded))[layer] - dict(items(pretrained))[layer]).max()
    assert gap > (1e-3 if bits == 4 else 1e-5)  # it was rounded
    config = run.model_config
    model, held_out = GPT(config, backend), PackedRows(run.held_out("sft"), config.context, run.config.seed)
    measured = evaluate_language(model, run.weights("sft", backend)[0], held_out, run.tokenizer, 4)["loss"]
    best = next(e.metrics["loss"] for e in events if isinstance(e, Eval) and e.step == state["step"])
    assert measured == pytest.approx(best, abs=1e-4)  # merged and whole as it was trained


def test_the_gradient_over_quantized_weights_is_that_over_their_floats(backend):
    base = random_weights(MODEL)
    quantized = quantize_weights(base, 4, 32)
    adapter = random_adapter(base, dora=True)
    trained, rest = {}, {}
    for name, leaf in items(adapter):
        (rest if name.endswith("lora_scale") else trained)[name] = leaf
    model = GPT(MODEL, backend)
    ids = backend.array(RNG.integers(0, 50, (2, 9)).astype(np.int32))
    found = []
    for frozen in (quantized, dequantize_weights(quantized, MODEL)):
        frozen = to_backend(backend, join(frozen, unflatten(rest)))
        step = backend.value_and_grad(lambda a, ids, frozen: ((model(join(frozen, a), ids) ** 2).mean(), {}))
        (_, _), grads = step(to_backend(backend, unflatten(trained)), ids, frozen)
        found.append({name: backend.numpy(g) for name, g in items(grads)})
    for name, grad in found[0].items():
        assert np.abs(grad - found[1][name]).max() < 1e-4 * np.abs(grad).max(), name
        assert np.abs(grad).max() > 0, name


@once
def test_dpo_over_quantized_weights_starts_at_ln_2(backend, copied):
    """Its reference has the same rounded weights, and a reference of others is not used."""
    references = {}
    run = copied("dpo", **LORA | {"lora_dropout": 0.0, "steps": 2, "save_every": 2})
    for bits in (0, 4):
        run = run.with_section("dpo", lora_bits=bits)
        losses = losses_of(run, "dpo", backend)
        assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
        stored = load_checkpoint(run.store("dpo").directory / "reference_train")[0]
        references[bits] = stored["reference"]["logprobs"]
        for path in (run.store("dpo").directory / "checkpoints", run.store("dpo").final):
            shutil.rmtree(path)
    assert np.abs(references[0] - references[4]).max() > 1e-4


# ---- going on


def interrupted(run, stage, backend):
    """A run that is stopped behind the checkpoint of step 2 and started again."""
    losses = losses_of(run, stage, backend, stop_after=2)
    return losses + losses_of(run, stage, backend)


CASES = [("sft", "adamw", {}), ("sft", "muon", {"dora": True}), ("dpo", "adamw", {"dora": True, "lora_bits": 4})]


@by_turns("stage,optimizer,kind", CASES)
def test_resumed_equals_uninterrupted(backend, copied, stage, optimizer, kind):
    way = LORA | kind | {"optimizer": optimizer, "steps": 4, "save_every": 2, "warmup_steps": 1}
    whole, parts = copied(stage, "whole", **way), copied(stage, "parts", **way)
    losses = losses_of(whole, stage, backend)
    assert interrupted(parts, stage, backend) == losses
    for a, b in zip(*(sorted(run.store(stage).final.iterdir()) for run in (whole, parts)), strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


@once
def test_a_lost_position_would_be_seen(backend, copied, monkeypatch):
    """The masks are a function of the step: with those of another one the result is another."""
    from minigpt.data import batches

    def wrong(seed, purpose, step):
        return right(seed, purpose, step % 3 if purpose == "dropout" else step)

    way = LORA | {"steps": 4, "save_every": 2}
    losses = losses_of(copied("sft", "whole", **way), "sft", backend)
    right = batches.stream
    monkeypatch.setattr(batches, "stream", wrong)
    assert interrupted(copied("sft", "parts", **way), "sft", backend)[:3] == losses[:3] != losses[1:]
    assert losses_of(copied("sft", "again", **way), "sft", backend)[3] != losses[3]


@once
def test_an_adapter_of_another_base_is_refused(backend, copied):
    run = copied("sft", **LORA | {"steps": 4, "save_every": 2})
    losses_of(run, "sft", backend, stop_after=2)
    manifest = run.store("pretrain").final / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(values | {"weights.safetensors": "0" * 64}))
    with pytest.raises(CheckpointError):
        losses_of(run, "sft", backend)  # the base itself is damaged
    path = run.store("sft").checkpoints()[-1] / "state.json"
    manifest.write_text(json.dumps(values))
    assert json.loads(path.read_text())["base"] == values["weights.safetensors"]
    other = copied("sft", "other", **LORA | {"steps": 4, "save_every": 2, "learning_rate": 0.0})
    retrain(other, backend)
    (other.store("sft").directory / "checkpoints").parent.mkdir(exist_ok=True)
    (run.store("sft").directory / "checkpoints").rename(other.store("sft").directory / "checkpoints")
    with pytest.raises(CheckpointError, match="was trained on weights that the stage before it does not have"):
        losses_of(other, "sft", backend)


def retrain(run, backend):
    """Other final weights for pretraining."""
    from minigpt.store.checkpoint import save_checkpoint

    trees, state = load_checkpoint(run.store("pretrain").final)
    save_checkpoint(run.store("pretrain").final, {"weights": {k: 2 * v for k, v in trees["weights"].items()}}, state)


@once
def test_damaged_final_weights_are_made_again(backend, copied):
    run = copied("sft", **LORA | {"steps": 2, "save_every": 2})
    train_stage(run, "sft", backend, silent)
    file = run.store("sft").final / "weights.safetensors"
    before = file.read_bytes()
    file.write_bytes(before[:-4] + b"oops")
    train_stage(run, "sft", backend, silent)
    assert file.read_bytes() == before


@once
def test_what_an_adapter_is_cannot_change_on_the_way(backend, copied):
    run = copied("sft", **LORA | {"steps": 2, "save_every": 2})
    run.save_config(backend)
    losses_of(run, "sft", backend, stop_after=2)
    run = run.with_section("sft", lora_rank=8, steps=4)
    with pytest.raises(UsageError, match="lora_rank: 4 -> 8"):
        run_pipeline(run, backend, silent, ["sft"], allow_changes=True)
    run = run.with_section("sft", lora_rank=4, lora_dropout=0.0)
    run_pipeline(run, backend, silent, ["sft"], allow_changes=True)
    assert run.store("sft").finished()
